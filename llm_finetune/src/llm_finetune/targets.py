"""Which linear layers get adapters: those of attention and the MLP by what they are, or any by patterns."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from llm_blocks import Parts, parts_of
from llm_finetune.linears import is_linear
from llm_finetune.lora import LoraLinear
from llm_finetune.lora_settings import Lora
from llm_finetune.slots import WHOLE
from llm_quant import QuantizedStack, Stacked
from llm_sepweight import PartSpec

# What a layer of attention, or a part of its fused projection, is called -> the switches that mean it. Latent attention
# (arXiv 2405.04434) makes queries in two steps, and keys and values together.
_ATTENTION: Mapping[str, tuple[str, ...]] = {
    "q": ("query",),
    "q_a": ("query",),
    "q_b": ("query",),
    "k": ("key",),
    "v": ("value",),
    "kv_a": ("key", "value"),
    "o": ("projection",),
}
_LAYER = re.compile(r"(?:^|\.)([0-9]{1,6})(?:\.|$)")
_STACKS = (Stacked, QuantizedStack)
_SHOWN = 12


def lora_targets(model: nn.Module, lora: Lora) -> dict[str, tuple[str, ...]]:
    """The layers that `lora` means: path -> the parts of it that are adapted, ("whole",) for all of it.

    By its switches, of this project's models: those of attention by name, the parts of a fused projection one by one,
    all linear layers of the MLP but routers, and the head. By its patterns (`targets`) alone where there are some, of
    any module: one such as "*.attention.[qv]" matches whole paths, one such as "*.qkv.v" a part of a fused projection.
    `layers` keeps of the numbered layers those in its ranges.

    ValueError for a pattern without a match, for nothing to adapt, for layers beyond the model's, and for a mixture of
    experts that `mlp` would mean, whose stacks have no adapters yet.
    """
    linears, fused = linear_paths(model), parts_of(model)
    found = _by_patterns(linears, fused, lora) if lora.targets else _by_switches(model, linears, fused, lora)
    kept = _within(model, found, lora.layers)
    if not kept:
        raise ValueError(f"these settings of LoRA mean no layer of the model; its linear layers are {_shown(linears)}")
    return kept


def linear_paths(model: nn.Module) -> list[str]:
    """The paths of all layers that may have adapters, also where they have some."""
    modules = dict(model.named_modules())
    inside = tuple(f"{path}." for path, module in modules.items() if isinstance(module, (*_STACKS, LoraLinear)))
    return [
        path
        for path, module in modules.items()
        if path and not path.startswith(inside) and (isinstance(module, LoraLinear) or is_linear(module))
    ]


def _by_switches(
    model: nn.Module, linears: list[str], fused: Mapping[str, Parts], lora: Lora
) -> dict[str, tuple[str, ...]]:
    if lora.mlp:
        _refuse_stacks(model)
    found: dict[str, tuple[str, ...]] = {}
    for path in linears:
        names = fused[path].names if path in fused else (path.rpartition(".")[2],)
        parts = tuple(name for name in names if _is_meant(path, name, lora))
        if parts:
            found[path] = parts if path in fused and len(parts) < len(names) else (WHOLE,)
    return found


def _is_meant(path: str, name: str, lora: Lora) -> bool:
    """Whether the switches mean the layer at a path, or its part of that name."""
    above = path.split(".")[:-1]
    if "mlp" in above:
        return lora.mlp
    if "attention" in above:
        return any(getattr(lora, switch) for switch in _ATTENTION.get(name, ()))
    return path == "end.head" and lora.head


def _refuse_stacks(model: nn.Module) -> None:
    stack = next((path for path, module in model.named_modules() if isinstance(module, _STACKS)), None)
    if stack is not None:
        raise ValueError(
            f"{stack} is a stack of experts, which LoRA doesn't adapt yet; leave mlp out, or choose layers by targets"
        )


def _by_patterns(linears: list[str], fused: Mapping[str, Parts], lora: Lora) -> dict[str, tuple[str, ...]]:
    """Whole layers win over their parts, whatever the order of the patterns."""
    found: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for path in linears:
        whole = {pattern for pattern in lora.targets if fnmatchcase(path, pattern)}
        parts = {
            part: hits
            for part in (fused[path].names if path in fused else ())
            if (hits := {pattern for pattern in lora.targets if fnmatchcase(f"{path}.{part}", pattern)})
        }
        used |= whole.union(*parts.values())
        if whole or parts:
            found[path] = (WHOLE,) if whole or len(parts) == len(fused[path].names) else tuple(parts)
    missed = [pattern for pattern in lora.targets if pattern not in used]
    if missed:
        raise ValueError(f"no linear layer matches {missed[0]!r}; there are {_shown(linears)}")
    return found


def _within(model: Any, found: dict[str, tuple[str, ...]], layers: str | None) -> dict[str, tuple[str, ...]]:
    """Those of the numbered layers that are wanted, and all that are in none."""
    if layers is None:
        return found
    numbers = {path: int(match[1]) for path in linear_paths(model) if (match := _LAYER.search(path))}
    return {
        path: parts
        for path, parts in found.items()
        if path not in numbers or numbers[path] in wanted_layers(layers, 1 + max(numbers.values()))
    }


def wanted_layers(layers: str, count: int) -> set[int]:
    """The numbers in half-open ranges such as "0-8 24-32"; ValueError for anything else, or beyond `count` layers."""
    spec = PartSpec.parse(layers)
    if spec.is_full or spec.begin or spec.end:
        raise ValueError(f"layers are ranges such as 0-8, half-open, not {layers!r}")
    return set(spec.resolve(count).layers())


def _shown(linears: list[str]) -> str:
    """The kinds of layers, in which * stands for a layer's number."""
    kinds = list(dict.fromkeys(_LAYER.sub(lambda match: match[0].replace(match[1], "*"), path) for path in linears))
    more = f" and {len(kinds) - _SHOWN} more" if len(kinds) > _SHOWN else ""
    return (", ".join(kinds[:_SHOWN]) or "none") + more
