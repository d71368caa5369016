"""Quantization as functions over any nn.Module."""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from llm_quant import bnb
from llm_quant.canonical import round_int4, round_int8
from llm_quant.linear import KernelLinear, QuantizedLinear, read_bf16
from llm_quant.memory import Arena
from llm_quant.stacks import QuantizedStack
from llm_quant.targets import Stacked, matrix_of, targets, weights_of

Scheme: TypeAlias = Literal["int8", "int4"] | bnb.Scheme
Maker: TypeAlias = Callable[[nn.Module], nn.Module]
SCHEMES: tuple[Scheme, ...] = ("int8", "int4", *bnb.SCHEMES)
GROUP_SIZE = 64


def quantize(module: nn.Module, scheme: Scheme, *, group_size: int = GROUP_SIZE, skip: Iterable[str] = ()) -> nn.Module:
    """Replace each nn.Linear below `module` by a `QuantizedLinear` with the nearest weights, in place; gives `module`.

    "int8" is symmetric with one scale a row, "int4" asymmetric with one scale for `group_size` inputs of a row. So are
    layers that say of themselves that they are linear (`LinearLike`) and stacks of matrices (`Stacked`); a subclass of
    nn.Linear stays as it is. Layers whose names match a pattern of `skip`, such as "end.*", stay as they are; so does
    an embedding, also where its weight is shared with a head that is quantized. Each layer lets go of its own weight
    before the next one begins. The "bnb." schemes are those of bitsandbytes (extra `bnb`): an nn.Linear becomes a
    `BnbLinear`, nothing else can, and `group_size` doesn't apply. Raises ValueError for an unknown scheme, for inputs
    that are no whole groups, for weights on the meta device, and for a "bnb." scheme without bitsandbytes.
    """
    makers = plan(module, scheme, group_size=group_size, skip=skip)
    for name in makers:
        require_weights(name, module.get_submodule(name))
    for name, make in makers.items():
        replace(module, [name], make)
    return module


def plan(
    module: nn.Module, scheme: Scheme, *, group_size: int = GROUP_SIZE, skip: Iterable[str] = ()
) -> dict[str, Maker]:
    """What `quantize` does, to be done a layer at a time: layers' names -> what makes the quantized one of a layer.

    `module` may be on the meta device; the layer that a maker is given must have its weights, in any floating dtype,
    on the device where the quantized one is to be. Raises as `quantize` does.
    """
    chosen = choose_layers(module, scheme, group_size, skip)
    if scheme in bnb.SCHEMES:
        return dict.fromkeys(chosen, lambda layer: bnb.quantized(cast(nn.Linear, layer), cast(bnb.Scheme, scheme)))
    arena = Arena()

    def rounded(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
        found = round_int8(weight) if scheme == "int8" else round_int4(weight, group_size)
        return QuantizedLinear(found, bias).prepare(arena)

    return dict.fromkeys(chosen, lambda layer: _quantized(layer, rounded))


def choose_layers(module: nn.Module, scheme: Scheme, group_size: int, skip: Iterable[str]) -> dict[str, nn.Module]:
    """The layers that `quantize` takes, by name; ValueError as there, before any is touched."""
    if scheme not in SCHEMES:
        raise ValueError(f"there is no scheme {scheme!r} of quantization; there are {', '.join(SCHEMES)}")
    bnb.require(scheme)
    patterns = tuple(skip)
    chosen = {
        name: layer
        for name, layer in targets(module).items()
        if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    for name, layer in chosen.items():
        for weight in weights_of(layer):
            _check(name, weight, scheme, group_size)
        if scheme in bnb.SCHEMES and not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{name} is no nn.Linear, and {scheme} takes no other; choose int8 or int4, or leave it out with "
                f"skip={name!r}"
            )
    return chosen


def accelerate(module: nn.Module) -> nn.Module:
    """Let the bf16 layers of `module` on the CPU use the kernels, in place; gives `module`.

    Their weights stay the same tensors. Nothing changes where there are no kernels.
    """
    chosen = [name for name, layer in _linears(module) if read_bf16(layer.weight)]
    replace(module, chosen, _with_kernels)
    return module


def _linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(name, layer) for name, layer in module.named_modules() if type(layer) is nn.Linear]


def replace(module: nn.Module, names: Iterable[str], make: Callable[[Any], nn.Module]) -> None:
    """Put what `make` gives in the place of each named layer, one at a time."""
    for name in names:
        above, _, last = name.rpartition(".")
        parent = module.get_submodule(above)
        layer = getattr(parent, last)
        setattr(parent, last, make(layer).train(layer.training))


def _quantized(layer: nn.Module, rounded: Callable[..., nn.Module]) -> nn.Module:
    """What takes the place of a layer, whose matrices are made one at a time."""
    if isinstance(layer, Stacked):
        return layer.with_stacks(
            {
                name: QuantizedStack(map(rounded, weight.detach()), out_features=weight.size(1))
                for name, weight in layer.stacks().items()
            }
        )
    bias = layer.bias
    return rounded(matrix_of(layer).detach(), bias.detach() if isinstance(bias, Tensor) else None)


def require_weights(name: str, layer: nn.Module) -> None:
    """ValueError for a layer on the meta device."""
    if any(weight.is_meta for weight in weights_of(layer)):
        raise ValueError(f"{name} has no weights yet (it is on the meta device); load them before they are quantized")


def _check(name: str, weight: Tensor, scheme: Scheme, group_size: int) -> None:
    if not weight.is_floating_point():
        raise ValueError(f"{name} holds {weight.dtype}, which is quantized already")
    if scheme == "int4" and (group_size < 2 or weight.size(-1) % group_size):
        raise ValueError(
            f"{name} has {weight.size(-1)} inputs, which are no whole groups of {group_size}; choose another "
            f"group_size, or leave it out with skip={name!r}"
        )


def _with_kernels(layer: nn.Linear) -> nn.Module:
    with torch.device("meta"):
        faster = KernelLinear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    faster.weight, faster.bias = layer.weight, layer.bias
    return faster
