"""How well an `LLM` foretells a text, how far it is from another one, how fast it reads and what its weights take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import llm_sampler
from llm_cli.measured_text import Text, prepare
from llm_quant import QuantizedLinear
from llm_sampler import Divergence, Perplexity

if TYPE_CHECKING:
    from llm_cli.llm import LLM

SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of one model on one text."""

    perplexity: Perplexity
    divergence: Divergence | None = None
    """From the model that it was compared with; None where there was none."""
    base: Evaluation | None = None
    """That model's own figures."""
    weights: str
    """What most weights are: bf16, int8, int4 g64 (in groups of 64)."""
    weight_bytes: int
    """The memory that all weights take."""
    tokens_per_second: float
    """Tokens that went through the model in each second of its forward passes, as when a prompt is read."""


def perplexity(
    llm: LLM,
    text: str | list[int],
    *,
    against: LLM | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    bos: bool | None = None,
    batch_size: int = 1,
) -> Evaluation:
    """Measure a model on a text, or on ids: its perplexity, and with `against` its divergence from that model.

    window: tokens that the model sees at once, by default its context or 2048 if that is less. stride: tokens from the
    beginning of a window to that of the next, by default the window; each token is scored once, in its first window.
    max_tokens: use this many tokens of the text. bos: whether the id that begins a text stands before each window, by
    default as the tokenizer says. batch_size: windows in one forward. There is no chat template; special tokens that
    are written out in a text become those tokens.
    Raises ValueError for a text that is too short, wrong numbers, and models of different tokenizers.
    """
    options: dict[str, Any] = {"window": window, "stride": stride, "max_tokens": max_tokens, "batch_size": batch_size}
    return measure(llm, prepare(llm, text, against=against, bos=bos, **options), against=against)


def measure(
    llm: LLM, text: Text, *, against: LLM | None = None, progress: Callable[[int], object] | None = None
) -> Evaluation:
    """Send the text through the model, and through `against`; `progress` gets the number of tokens as they are done."""
    own = _Timed(llm, text)
    if against is None:
        return own.evaluation(llm_sampler.perplexity(own, text.ids, **text.options(), progress=progress))
    other = _Timed(against, text)
    found = llm_sampler.kl_divergence(own, other, text.ids, **text.options(), progress=progress)
    return replace(own.evaluation(found.model), divergence=found, base=other.evaluation(found.base))


class _Timed:
    """The forward function of a model, which counts tokens and seconds."""

    def __init__(self, llm: LLM, text: Text) -> None:
        self._llm, self._tokens, self._seconds = llm, 0, 0.0
        with torch.no_grad():  # weights that are mapped are read from the disk now, which is no speed of the model
            llm.forward(torch.tensor([text.ids[:1]]))

    def __call__(self, ids: Tensor) -> Tensor:
        started = time.perf_counter()
        logits = self._llm.forward(ids)
        if logits.device.type != "cpu":
            torch.accelerator.synchronize(logits.device)
        self._seconds += time.perf_counter() - started
        self._tokens += ids.numel()
        return logits

    def evaluation(self, found: Perplexity) -> Evaluation:
        return Evaluation(
            perplexity=found,
            weights=describe_weights(self._llm.model),
            weight_bytes=weight_bytes(self._llm.model),
            tokens_per_second=self._tokens / self._seconds,
        )


def describe_weights(model: Any, scheme: str | None = None) -> str:
    """What the weights of a model's linear layers are: int8, int4 with the size of its groups, else scheme or dtype."""
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLinear)]
    if not layers and scheme is not None:
        return scheme
    if not layers:
        dtype = next(model.parameters()).dtype
        return SHORT.get(dtype, str(dtype).removeprefix("torch."))
    kinds = {f"int4 g{layer.group_size}" if layer.kind == "int4" else layer.kind for layer in layers}
    return ", ".join(sorted(kinds))


def weight_bytes(model: Any) -> int:
    """The memory of a model's weights, those that two layers share counted once."""
    return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))
