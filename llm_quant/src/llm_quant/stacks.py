"""Products of groups of rows with a matrix of a stack each, whose matrices are whole numbers.

Shapes: M rows of x, N outputs, K inputs, E layers of a stack.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from llm_quant.canonical import Int4, Int8, Quantized
from llm_quant.linear import QuantizedLinear


class QuantizedStack(nn.Module):
    """E layers from K inputs to N outputs, for rows that are sorted by layer.

    Each layer that has rows multiplies once, and reads no more than its own weight: few rows by the kernel for few
    rows. The layers are `QuantizedLinear`, or any others where some were left as they are.
    """

    def __init__(self, layers: Iterable[nn.Module], out_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.out_features = out_features

    def forward(self, x: Tensor, ends: Sequence[int]) -> Tensor:
        """Rows of x (M, K) times the layer whose they are: (M, N). Those of layer e end before row ends[e]."""
        parts = [self.layers[e](x[a:b]) for e, (a, b) in enumerate(pairwise((0, *ends))) if b > a]
        return torch.cat(parts) if parts else x.new_empty(0, self.out_features)


class SideBySide(nn.Module):
    """Layers of the same inputs, whose outputs stand side by side: (..., K) -> (..., N of all)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=-1)


def side_by_side(first: nn.Module, second: nn.Module) -> nn.Module:
    """Two layers of the same inputs as one: a single `QuantizedLinear` where their weights can be one weight.

    They can't where their scales have different dtypes, their groups different sizes or their inputs different orders.
    The layers are in the canonical layout and without a bias.
    """
    if isinstance(first, QuantizedLinear) and isinstance(second, QuantizedLinear) and _same_order(first, second):
        joined = _joined(first.weight, second.weight)
        if joined is not None:
            return QuantizedLinear(joined, order=first.order)
    return SideBySide(first, second)


def _same_order(first: QuantizedLinear, second: QuantizedLinear) -> bool:
    if first.order is None or second.order is None:
        return first.order is second.order
    return torch.equal(first.order, second.order)


def _joined(first: Quantized, second: Quantized) -> Quantized | None:
    """The rows of both weights; None where they differ in more than rows."""
    if first.scale.dtype != second.scale.dtype:
        return None
    if isinstance(first, Int8) and isinstance(second, Int8):
        return Int8(value=torch.cat((first.value, second.value)), scale=torch.cat((first.scale, second.scale)))
    if isinstance(first, Int4) and isinstance(second, Int4) and first.group == second.group:
        value, scale, zero = (
            torch.cat((getattr(first, name), getattr(second, name))) for name in ("value", "scale", "zero")
        )
        return Int4(value=value, scale=scale, zero=zero)
    return None
