"""A decoder whose steps for new tokens are recorded once and then computed by one call of the kernels.

Shapes: B batch, T time, C width, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks.cache import KVCache
from llm_blocks.decoder import Decoder
from llm_blocks.plan import FEW
from llm_blocks.switched import Switched
from llm_quant import native
from llm_quant.program import Program
from llm_quant.recording import record


class Recorded:
    """Call it like the `Decoder` that it was made of: ids (B, T) or hidden states (B, T, C), with a cache.

    On a CPU with kernels, a step of few tokens after others is recorded when its shape and cache come for the second
    time (of one token a row at once, for it will come again), and from then on computed without Python between its
    operations, to the same bits. Whatever can't be recorded (a prompt, rows with padding, operations that the kernels
    lack) is left to the model itself.

    While it is in use the model must stay as it is: weights may change in place, but no tensor or module may take the
    place of another. `Switched` modules may be switched: what is recorded belongs to their choice. A model with
    hooks is never recorded.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.problem: str | None = None
        """Why steps aren't recorded, where they aren't; None as long as nothing is in the way."""
        self._steps: dict[tuple[Any, ...], _Step | None] = {}  # None where it came once
        self._cache: KVCache | None = None
        modules = model.modules() if isinstance(model, Decoder) else ()
        self._switched = [each for each in modules if isinstance(each, Switched)]
        if not isinstance(model, Decoder):
            self.problem = "the model is no Decoder"
        elif native.level() is None:
            self.problem = f"there are no kernels: {native.reason()}"
        elif any(parameter.device.type != "cpu" for parameter in model.parameters()):
            self.problem = "the model is not on the CPU"
        elif _has_hooks(model):
            self.problem = "the model has hooks"

    def __call__(
        self, x: Tensor, cache: KVCache | None = None, *, counts: list[int] | None = None, last_only: bool = False
    ) -> Tensor:
        """As `Decoder.forward`."""
        if cache is None or not self._recordable(x, cache, counts):
            return self.model(x, cache, counts=counts, last_only=last_only)
        if cache is not self._cache:
            self._cache, self._steps = cache, {}
        key = (tuple(x.shape), x.dtype, last_only, tuple(each.choice() for each in self._switched))
        if key not in self._steps and x.size(1) > 1:
            self._steps[key] = None
            return self.model(x, cache, last_only=last_only)
        step = self._steps.get(key)
        if step is not None:
            return step.run(x)
        step = self._steps[key] = _Step(self.model, cache, last_only=last_only)
        result, self.problem = step.record(x)
        return result

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the model."""
        return self.model.parameters()

    def _recordable(self, x: Tensor, cache: KVCache, counts: list[int] | None) -> bool:
        return (
            self.problem is None
            and 0 < x.size(0) * x.size(1) <= FEW
            and x.size(0) == len(cache.lengths)
            and max(cache.lengths) > 0
            and (counts is None or min(counts) == x.size(1))
            and not torch.is_grad_enabled()
        )


class _Step:
    """The forward of so many new tokens of each row over one cache."""

    def __init__(self, model: Any, cache: KVCache, *, last_only: bool) -> None:
        self._model, self._cache, self._last_only = model, cache, last_only
        self._inputs: list[Tensor] = []
        self._program: Program | None = None

    def record(self, x: Tensor) -> tuple[Tensor, str | None]:
        """The result of the first forward, and why it can't be recorded, if it can't."""
        model = self._model
        plan, hidden, context = model.enter(x, self._cache)
        context = _owned(context)  # later ones are copied into it, and it may lie in a table that others read
        self._inputs = [hidden, *_tensors(context)]
        result, program = record(lambda: model.leave(hidden, context, plan, last_only=self._last_only), self._inputs)
        if isinstance(program, str):
            return result, program
        self._program = program
        return result.clone(), None

    def run(self, x: Tensor) -> Tensor:
        """The result for other tokens at the positions where the cache is now."""
        assert self._program is not None
        plan, hidden, context = self._model.enter(x, self._cache)
        for mine, new in zip(self._inputs, (hidden, *_tensors(context)), strict=True):
            mine.copy_(new)
        result = self._program.run(plan.starts, plan.ends).clone()
        plan.commit()
        return result


def _tensors(context: Any) -> Iterator[Tensor]:
    """The tensors in what blocks are given beside x."""
    if isinstance(context, Tensor):
        yield context
    elif is_dataclass(context):
        for each in fields(context):
            yield from _tensors(getattr(context, each.name))
    elif isinstance(context, list | tuple | dict):
        for each in context.values() if isinstance(context, dict) else context:
            yield from _tensors(each)


def _owned(context: Any) -> Any:
    """The same with copies of its tensors."""
    if isinstance(context, Tensor):
        return context.clone()
    if isinstance(context, dict):
        return {key: _owned(each) for key, each in context.items()}
    if isinstance(context, list | tuple):
        owned = list(map(_owned, context))
        return type(context)(owned) if type(context) in (list, tuple) else type(context)(*owned)  # a named tuple
    if is_dataclass(context) and not isinstance(context, type):
        return replace(context, **{each.name: _owned(getattr(context, each.name)) for each in fields(context)})
    return context


def _has_hooks(model: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
