"""Quantization as functions over any nn.Module."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

import torch
from torch import nn

from llm_quant import bnb, native
from llm_quant.canonical import round_int4, round_int8
from llm_quant.linear import KernelLinear, QuantizedLinear
from llm_quant.memory import Arena

Scheme: TypeAlias = Literal["int8", "int4"] | bnb.Scheme
SCHEMES: tuple[Scheme, ...] = ("int8", "int4", *bnb.SCHEMES)
GROUP_SIZE = 64
BF16_LEVELS = ("avx512",)  # where the kernels read bf16 weights faster than torch's own product; not measured on Arm


def quantize(module: nn.Module, scheme: Scheme, *, group_size: int = GROUP_SIZE, skip: Iterable[str] = ()) -> nn.Module:
    """Replace each nn.Linear below `module` by a `QuantizedLinear` with the nearest weights, in place; gives `module`.

    "int8" is symmetric with one scale a row, "int4" asymmetric with one scale for `group_size` inputs of a row. The
    "bnb." ones are those of bitsandbytes (extra `bnb`) and become a `BnbLinear`; `group_size` doesn't apply. Layers
    whose names match a pattern of `skip`, such as "end.*", stay as they are; so does an embedding, also where its
    weight is shared with a head that is quantized. Each layer lets go of its own weight before the next one begins.
    Raises ValueError for an unknown scheme, for inputs that are no whole groups, for weights on the meta device, and
    for a "bnb." scheme without bitsandbytes.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"there is no scheme {scheme!r} of quantization; there are {', '.join(SCHEMES)}")
    if scheme in bnb.SCHEMES:
        bnb.require()
    skip = tuple(skip)
    chosen = [name for name, _ in _linears(module) if not any(fnmatchcase(name, pattern) for pattern in skip)]
    for name in chosen:
        _check(name, module.get_submodule(name), scheme, group_size)

    arena = Arena()

    def quantized(layer: nn.Linear) -> nn.Module:
        if scheme in bnb.SCHEMES:
            return bnb.quantized(layer, scheme)
        weight = layer.weight.detach()
        rounded = round_int8(weight) if scheme == "int8" else round_int4(weight, group_size)
        return QuantizedLinear(rounded, None if layer.bias is None else layer.bias.detach()).prepare(arena)

    _replace(module, chosen, quantized)
    return module


def accelerate(module: nn.Module) -> nn.Module:
    """Let the bf16 layers of `module` on the CPU use the kernels, in place; gives `module`.

    Their weights stay the same tensors. Nothing changes where there are no kernels.
    """
    if native.level() not in BF16_LEVELS:
        return module
    chosen = [name for name, layer in _linears(module) if type(layer) is nn.Linear and _is_bf16(layer)]
    _replace(module, chosen, _with_kernels)
    return module


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, layer) for name, layer in module.named_modules() if type(layer) in (nn.Linear, KernelLinear)]


def _replace(module: nn.Module, names: Iterable[str], make: Callable[[nn.Linear], nn.Module]) -> None:
    for name in names:
        above, _, last = name.rpartition(".")
        parent = module.get_submodule(above)
        layer = getattr(parent, last)
        setattr(parent, last, make(layer).train(layer.training))


def _check(name: str, layer: nn.Module, scheme: Scheme, group_size: int) -> None:
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    if weight.is_meta:
        raise ValueError(f"{name} has no weights yet (it is on the meta device); load them before they are quantized")
    if not weight.is_floating_point():
        raise ValueError(f"{name} holds {weight.dtype}, which is quantized already")
    if scheme == "int4" and (group_size < 2 or weight.size(1) % group_size):
        raise ValueError(
            f"{name} has {weight.size(1)} inputs, which are no whole groups of {group_size}; choose another "
            f"group_size, or leave it out with skip={name!r}"
        )


def _is_bf16(layer: nn.Linear) -> bool:
    weight = layer.weight
    fits = weight.size(0) % 16 == 0 and weight.is_contiguous()
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and fits


def _with_kernels(layer: nn.Linear) -> nn.Module:
    with torch.device("meta"):
        faster = KernelLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    faster.weight, faster.bias = layer.weight, layer.bias
    return faster
