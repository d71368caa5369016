"""The linear layers that adapters are put on, of every kind, and their weights in fp32.

Shapes: N outputs, K inputs, R rows at a time, r rank.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from llm_quant import BnbLinear, KernelLinear, LinearLike, QuantizedLinear, matrix_of
from llm_quant.bnb.four import Bit4Linear

ROWS = 512


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer that may have adapters: not so a subclass of nn.Linear, such as a router."""
    return type(module) in (nn.Linear, KernelLinear) or isinstance(module, LinearLike | QuantizedLinear | BnbLinear)


def is_rounded(module: nn.Module) -> bool:
    """Whether a module is a quantized linear layer."""
    return isinstance(module, QuantizedLinear | BnbLinear)


def sizes_of(layer: nn.Module) -> tuple[int, int]:
    """N and K of a layer that `is_linear`."""
    if isinstance(layer, QuantizedLinear | BnbLinear):
        return layer.out_features, layer.in_features
    n, k = matrix_of(layer).shape
    return n, k


def bias_of(layer: nn.Module) -> Tensor | None:
    """The bias (N,) of a layer that `is_linear`."""
    return layer.bias if isinstance(layer.bias, Tensor) else None


def device_of(layer: nn.Module) -> torch.device:
    """Where a layer's tensors are."""
    return next(tensor.device for kind in (layer.parameters(), layer.buffers()) for tensor in kind)


def weight_rows(layer: nn.Module) -> Iterator[Tensor]:
    """The weight of a layer that `is_linear`, in fp32, some rows (R, K) at a time; what quantized ones stand for.

    For use where no gradients are recorded.
    """
    if isinstance(layer, Bit4Linear):
        yield from layer.weight.rows(torch.float32)
    elif isinstance(layer, BnbLinear):
        yield from layer.dequantize().split(ROWS)
    elif isinstance(layer, QuantizedLinear):
        yield from _in_order(layer).split(ROWS)
    else:
        yield from (rows.float() for rows in matrix_of(layer).detach().split(ROWS))


def _in_order(layer: QuantizedLinear) -> Tensor:
    """The weight with its columns in the order of the inputs."""
    weight = layer.weight.dequantize()
    return weight if layer.order is None else torch.empty_like(weight).index_copy_(1, layer.order, weight)


@torch.no_grad()
def row_squares(layer: nn.Module) -> Tensor:
    """The squared length of each row of the weight: (N,) fp32."""
    return torch.cat([rows.square().sum(dim=1) for rows in weight_rows(layer)])


@torch.no_grad()
def weight_times(layer: nn.Module, a: Tensor) -> Tensor:
    """The weight (N, K) times the transpose of a (r, K) fp32: (N, r)."""
    return torch.cat([rows @ a.T for rows in weight_rows(layer)])
