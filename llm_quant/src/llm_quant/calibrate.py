"""int4 that is fitted to inputs, as a function over any nn.Module.

Shapes: N outputs, K inputs of a layer.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from llm_quant.canonical import Int4, round_int4, row_pieces, rows_of
from llm_quant.clipping import clip_int4
from llm_quant.gptq import gptq
from llm_quant.hessian import Hessian, squared_error
from llm_quant.linear import QuantizedLinear
from llm_quant.memory import Arena
from llm_quant.quantize import GROUP_SIZE, plan, replace, require_weights
from llm_quant.targets import Stacked, matrix_of

Method: TypeAlias = Literal["gptq", "awq"]
METHODS: tuple[Method, ...] = ("gptq", "awq")


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """|x W'^T - x W^T| / |x W^T| over all inputs x of a layer: rounded to the nearest, and with calibration."""

    nearest: float
    calibrated: float


def calibrate(
    module: nn.Module,
    batches: Sequence[Tensor],
    *,
    method: Method = "gptq",
    group_size: int = GROUP_SIZE,
    skip: Iterable[str] = (),
    prepare: bool = True,
) -> dict[str, LayerError]:
    """Replace each nn.Linear below `module` by a `QuantizedLinear` of int4 that loses little on these inputs, in place.

    So are layers that say of themselves that they are linear (`LinearLike`); stacks of matrices (`Stacked`) are rounded
    to the nearest, as by `quantize`.

    "gptq" is `gptq`, "awq" is `clip_int4`. `module(batch)` runs for every batch once for each set of layers that read
    the same tensor, in the order in which they run, and no further than to these: a layer sees what the quantized ones
    before it give. For a deep model give the blocks one by one, each with the outputs of the one before, for else the
    first blocks run again for each of the later ones. `module` is to be in evaluation mode, to hold no state, and to
    use the same layers for every batch. `prepare=False` leaves the weights in their canonical layout.

    Gives the errors of the layers in the order in which they ran. Layers that none of the first batch reaches are
    rounded to the nearest, and not among them. ValueError as from `quantize`, for an unknown method, without batches,
    and for inputs that overflow, with the layer's name.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} of calibration; there are {', '.join(METHODS)}")
    if not batches:
        raise ValueError("calibration needs at least one batch of inputs")
    makers = plan(module, "int4", group_size=group_size, skip=skip)
    layers = {name: module.get_submodule(name) for name in makers}
    for name, layer in layers.items():
        require_weights(name, layer)
    chosen = [name for name, layer in layers.items() if not isinstance(layer, Stacked)]
    errors: dict[str, LayerError] = {}
    with torch.no_grad():
        stages = _stages(module, chosen, batches[0])
        for stage in stages:
            hessian = _hessian(module, stage, batches)
            for name in stage.names:
                errors[name] = _quantize(module, name, hessian, method, group_size)
        _round(module, [name for name in chosen if name not in errors], group_size)
        for name in makers.keys() - set(chosen):
            replace(module, [name], makers[name])
    if prepare:
        _prepare(module, chosen)
    return errors


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Layers that read the same tensors, and how often each runs for a batch."""

    names: tuple[str, ...]
    calls: int


class _Reached(Exception):
    """Ends a run of the module: what is behind the layers in question isn't needed."""


def _stages(module: nn.Module, names: Sequence[str], batch: Tensor) -> list[_Stage]:
    """The layers that a batch reaches, those that read the same tensors together, in the order in which they run."""
    read: dict[str, list[Tensor]] = {}  # the tensors themselves, so that none gets the id of another
    with _watched(module, names, lambda name, x: read.setdefault(name, []).append(x)):
        module(batch)
    together: dict[tuple[int, ...], list[str]] = {}
    for name, inputs in read.items():
        together.setdefault(tuple(map(id, inputs)), []).append(name)
    return [_Stage(names=tuple(names), calls=len(inputs)) for inputs, names in together.items()]


def _hessian(module: nn.Module, stage: _Stage, batches: Sequence[Tensor]) -> Tensor:
    """The Hessian (K, K) of the inputs that the layers of a stage read."""
    found, calls = Hessian(), 0

    def add(_: str, x: Tensor) -> None:
        nonlocal calls
        found.add(x)
        calls += 1
        if calls % stage.calls == 0:
            raise _Reached

    with _watched(module, stage.names[:1], add):
        for batch in batches:
            with suppress(_Reached):
                module(batch)
    matrix = found.matrix()
    assert matrix is not None  # the first batch has reached it before
    return matrix


@contextmanager
def _watched(module: nn.Module, names: Iterable[str], tell: Callable[[str, Tensor], None]) -> Any:
    """A block in which `tell` gets the name and the input of each layer that runs."""

    def watch(name: str) -> Any:
        return module.get_submodule(name).register_forward_pre_hook(lambda _, args: tell(name, args[0]))

    handles = [watch(name) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _quantize(module: nn.Module, name: str, hessian: Tensor, method: Method, group: int) -> LayerError:
    """Put the quantized layer in the place of a layer; its error."""
    weight = matrix_of(module.get_submodule(name)).detach()
    try:
        found = (gptq if method == "gptq" else clip_int4)(weight, hessian, group)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    replace(module, [name], lambda layer: _linear(layer, found))
    return _errors(weight, round_int4(weight, group), found, hessian)


def _errors(weight: Tensor, nearest: Int4, calibrated: Int4, hessian: Tensor) -> LayerError:
    """How far two int4 of a weight (N, K) are from it, some rows at a time."""
    sums, first = weight.new_zeros(3, dtype=torch.float64), 0
    for rows in row_pieces(weight):
        rows, some = rows.float(), slice(first, first + rows.size(0))
        errors = (rows_of(each, some).dequantize() - rows for each in (nearest, calibrated))
        sums += torch.stack([squared_error(each, hessian).double().sum() for each in (rows, *errors)])
        first = some.stop
    ratios = (sums[1:] / sums[0]).sqrt().nan_to_num(0.0).tolist()  # 0 where a layer gives nothing but zeros
    return LayerError(nearest=ratios[0], calibrated=ratios[1])


def _round(module: nn.Module, names: Iterable[str], group: int) -> None:
    replace(module, names, lambda layer: _linear(layer, round_int4(matrix_of(layer).detach(), group)))


def _linear(layer: nn.Module, weight: Int4) -> nn.Module:
    return QuantizedLinear(weight, layer.bias.detach() if isinstance(layer.bias, Tensor) else None)


def _prepare(module: nn.Module, names: Iterable[str]) -> None:
    arena = Arena()
    for name in names:
        layer = module.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        layer.prepare(arena)
