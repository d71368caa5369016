"""LoRA as a function over any nn.Module (arXiv 2106.09685); on quantized layers it is QLoRA (arXiv 2305.14314).

Several adapters may be there at once. Which of them a forward has is set on the module (`set_adapter`, `use_adapter`):
that is the one state that modules have here beside their weights, and one caller at a time may change it.

Shapes: N outputs, K inputs, r rank.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks import Parts, parts_of
from llm_blocks.replacing import put
from llm_finetune.adapted import Adapted, adapted_layers
from llm_finetune.dora import Dora
from llm_finetune.joined import add_joined
from llm_finetune.linears import bias_of, device_of, is_linear, row_squares, sizes_of, weight_times
from llm_finetune.lora_settings import Lora
from llm_finetune.products import LowRankProduct, serves
from llm_finetune.slots import WHOLE, LowRank, Slot, add_part, mixed_seed, of_part

Choice = str | Mapping[str, float] | None
"""One adapter by name, several with what multiplies each of them, or none."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class LoraLinear(Adapted):
    """base(x) + scale B A x for each active adapter: (..., K) -> (..., N).

    The base is a linear layer of any kind, of which only the forward is used: nn.Linear, `LinearLike`, or a quantized
    one. `parts` say how the outputs of a fused projection divide, each of which an adapter may change by itself.
    """

    def __init__(self, base: nn.Module, parts: Parts | None = None) -> None:
        super().__init__(base)
        self.parts = parts
        self.out_features, self.in_features = sizes_of(base)

    def forward(self, x: Tensor) -> Tensor:
        slot = self._alone()
        if slot is not None and isinstance(self.base, nn.Linear) and serves(x, self.base.weight, self.base.bias):
            pair: Any = slot.pairs[WHOLE]
            return LowRankProduct.apply(
                x, slot.dropped(x), self.base.weight, self.base.bias, pair.a, pair.b, slot.scale
            )
        y = out = self.base(x)
        if self.active and not torch.is_grad_enabled() and not self._drops():
            active: Any = {self.slots[name]: weight for name, weight in self.active.items()}
            return add_joined(y, x, active, self.parts, bias_of(self.base), self.ratio)
        for name, weight in self.active.items():
            slot: Any = self.slots[name]
            given = slot.dropped(x)
            # with dropout DoRA scales what the base makes of the dropped inputs, as peft does
            again = y if given is x or not slot.settings.dora else self.base(given)
            for part, pair in slot.pairs.items():
                delta = self._delta(pair, given, again, slot.scale, part)
                out = add_part(out, delta if weight == 1 else delta * weight, self.parts, part)
        return out

    def _alone(self) -> Slot | None:
        """The one adapter that is active, where it is plain LoRA of the whole layer."""
        name = next(iter(self.active), None)
        if name is None or len(self.active) > 1 or self.active[name] != 1:
            return None
        slot: Any = self.slots[name]
        return slot if list(slot.pairs) == [WHOLE] and not slot.settings.dora else None

    def _drops(self) -> bool:
        """Whether an active adapter has dropout now."""
        slots: Any = [self.slots[name] for name in self.active]
        return any(slot.training and slot.settings.dropout for slot in slots)

    def add_slot(self, name: str, parts: Sequence[str], lora: Lora, seeds: Mapping[str, int]) -> None:
        """Put a new adapter on some parts; `WHOLE` for the layer as it is."""
        pairs = {part: self._pair(part, lora, seeds[part]) for part in parts}
        self.slots[name] = Slot(pairs, lora).train(self.training)

    def _pair(self, part: str, lora: Lora, seed: int) -> LowRank:
        n = self.out_features if part == WHOLE or self.parts is None else self.parts.count(part)
        pair = LowRank(n, self.in_features, lora.r, seed=seed, device=device_of(self.base))
        if lora.dora:
            pair.dora = Dora(of_part(row_squares(self.base), self.parts, part, 0).contiguous())
        return pair

    def _delta(self, pair: LowRank, x: Tensor, y: Tensor, scale: float, part: str) -> Tensor:
        """What an adapter adds to a part, of its inputs and of the base's outputs for them."""
        low = pair(x, scale)
        if pair.dora is None:
            return low
        bias = bias_of(self.base)
        product = y if bias is None else y - bias.to(y.dtype)
        return pair.dora(low, of_part(product, self.parts, part), self.ratio(pair, scale, part))

    def ratio(self, pair: LowRank, scale: float, part: str) -> Tensor:
        """DoRA's magnitude over the length of each row of a part: (N,) fp32."""
        assert pair.dora is not None

        def times(a: Tensor) -> Tensor:
            return of_part(weight_times(self.base, a), self.parts, part, 0)

        return pair.dora.ratio(pair.a, pair.b, scale, times)


def add_lora(
    module: nn.Module,
    targets: Mapping[str, Sequence[str]],
    lora: Lora | Mapping[str, Lora],
    *,
    name: str = "default",
    seed: int = 0,
) -> nn.Module:
    """Put the adapter `name` on layers of `module`, in place, and make it the active one; gives `module`.

    `targets` are paths of linear layers with the parts to adapt of each, as `lora_targets` gives them: ("whole",) for
    all of a layer; `lora` may be settings by path. Everything is frozen but adapters, whose parameters are fp32. The
    seed alone decides the initial values, whatever else is adapted. ValueError for a layer that isn't linear, an
    unknown part or a name in use, before anything changes.
    """
    check_name(module, name)
    fused = parts_of(module)
    for path, parts in targets.items():
        _check_target(module, path, parts, fused.get(path))
    for path, parts in targets.items():
        layer = _wrapped(module, path, fused.get(path))
        settings = lora if isinstance(lora, Lora) else lora[path]
        layer.add_slot(name, parts, settings, {part: mixed_seed(seed, path, part) for part in parts})
    trained = {id(parameter) for parameter in lora_parameters(module).values()}
    for parameter in module.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    set_adapter(module, name)
    return module


def remove_lora(module: nn.Module, name: str | None = None) -> nn.Module:
    """Take one adapter off, or all of them, in place; gives `module`. Base layers without any come back as they were.

    ValueError for an unknown name. What is frozen stays so.
    """
    if name is not None:
        _require(module, [name])
    for path, layer in lora_layers(module).items():
        for each in [name] if name is not None else list(layer.slots):
            if each in layer.slots:
                del layer.slots[each]
                layer.active.pop(each, None)
        if not layer.slots:
            put(module, path, layer.base)
    return module


def set_adapter(module: nn.Module, choice: Choice) -> None:
    """Have the forward of `module` use one adapter, a weighted sum of several, or none.

    ValueError for an unknown name or a weight that is no number.
    """
    weights = {} if choice is None else {choice: 1.0} if isinstance(choice, str) else dict(choice)
    _require(module, weights)
    if not all(abs(weight) < float("inf") for weight in weights.values()):
        raise ValueError(f"weights of adapters are finite numbers, got {weights}")
    for layer in adapted_layers(module).values():
        layer.active = {name: weight for name, weight in weights.items() if name in layer.slots}


@contextmanager
def use_adapter(module: nn.Module, choice: Choice) -> Iterator[None]:
    """The same for a block, after which the forward is what it was."""
    before = {layer: layer.active for layer in adapted_layers(module).values()}
    set_adapter(module, choice)
    try:
        yield
    finally:
        for layer, active in before.items():
            layer.active = active


def disabled(module: nn.Module) -> Any:
    """A block in which the base model computes alone, such as the reference of DPO."""
    return use_adapter(module, None)


def adapters(module: nn.Module) -> list[str]:
    """The names of all adapters, in the order of adding."""
    return list(dict.fromkeys(name for layer in adapted_layers(module).values() for name in layer.slots))


def lora_parameters(module: nn.Module, name: str | None = None) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, or of all, by their names in `module`.

    Those of A end in ".a", those of B in ".b", DoRA's magnitudes in ".magnitude".
    """
    return {
        f"{path}.slots.{each}.{key}".removeprefix("."): parameter
        for path, layer in lora_layers(module).items()
        for each, slot in layer.slots.items()
        if name in (None, each)
        for key, parameter in slot.named_parameters()
    }


def seed_dropout(module: nn.Module, seed: int | None) -> None:
    """Make the dropout masks of the next forward a function of `seed` and the layer; None for torch's generator.

    A loop that gives each forward a seed of its own needs no state of a generator to go on exactly where it stopped,
    and a forward that activation checkpointing computes again has the same masks.
    """
    for path, layer in lora_layers(module).items():
        for slot in layer.slots.values():
            assert isinstance(slot, Slot)
            slot.dropout_seed = None if seed is None else mixed_seed(seed, path)


def lora_layers(module: nn.Module) -> dict[str, LoraLinear]:
    """The layers with adapters, by path."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, LoraLinear)}


def _wrapped(module: nn.Module, path: str, parts: Parts | None) -> LoraLinear:
    layer = module.get_submodule(path)
    if isinstance(layer, LoraLinear):
        return layer
    wrapped = LoraLinear(layer, parts).train(layer.training)
    put(module, path, wrapped)
    return wrapped


def check_name(module: nn.Module, name: str) -> None:
    if not _NAME.fullmatch(name) or name in dir(nn.ModuleDict):
        raise ValueError(f"an adapter's name is up to 64 letters, digits, _ and -, and no word of torch, not {name!r}")
    if name in adapters(module):
        raise ValueError(f"there is an adapter {name!r} already; choose another name, or remove it first")


def _check_target(module: nn.Module, path: str, parts: Sequence[str], fused: Parts | None) -> None:
    try:
        layer = module.get_submodule(path)
    except AttributeError:
        raise ValueError(f"the model has no layer {path!r}") from None
    if not path or not (isinstance(layer, LoraLinear) or is_linear(layer)):
        raise ValueError(f"{path or 'the model itself'} is {type(layer).__name__}, and LoRA goes onto linear layers")
    known = (WHOLE, *(fused.names if fused else ()))
    wrong = [part for part in parts if part not in known]
    if wrong or not parts or len(set(parts)) != len(parts) or (WHOLE in parts and len(parts) > 1):
        raise ValueError(f"{path} has the parts {', '.join(known)}, of which {list(parts)} is no choice")


def _require(module: nn.Module, names: Iterator[str] | Sequence[str] | Mapping[str, float]) -> None:
    known = adapters(module)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no adapter {name!r}; there are {', '.join(known) or 'none'}")
