"""nf4 and fp4 on the CPU by the kernels of this package, to bitsandbytes' bits.

Shapes: M rows of x, N outputs, K inputs, S scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm_quant import native, operations, workspace

if TYPE_CHECKING:
    from llm_quant.bnb.four import Bit4

FLOATS = (torch.float32, torch.bfloat16)
GROUP = 64
FEW = 8  # rows of x for which weights aren't made whole


def serve(x: Tensor) -> bool:
    """Whether the kernels can read or make what is stored beside x."""
    compiling = torch.compiler.is_compiling()  # first: what follows can't be traced
    return not compiling and x.device.type == "cpu" and native.level() is not None


def whole(weight: Bit4, first: int, out: Tensor) -> Tensor:
    """`out`, fp32 or bf16, filled with the numbers of a weight from `first` on, which begins a group."""
    native.whole4(weight.value, weight.absmax, _tables(weight), first, out)
    return out


def multiply(m: int, k: int) -> bool:
    """Whether the kernels have products of M rows; torch is faster for many."""
    return native.level() in native.BIT4_LEVELS and 0 < m <= FEW and k % GROUP == 0


def times(x: Tensor, weight: Bit4, bias: Tensor | None) -> Tensor:
    """x (M, K) times a weight, plus bias: (M, N), where the kernels `multiply`."""
    n = weight.shape[0]
    bias = None if bias is None else bias.float()
    value, scale, tables = weight.value, weight.absmax, _tables(weight)
    y = native.linear(x, value, kind=native.BIT4, n=n, group=GROUP, scale=scale, zero=tables, bias=bias)
    if operations.here.recorder is not None:
        operations.note_linear(x, y, native.BIT4, GROUP, (value, scale, tables, bias))
    return y


def rounded(flat: Tensor, table: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The nearest of a table of 16 numbers, two in a byte, and the scale of each 64: uint8 and fp32 (S,)."""
    bounds, order = _bounds(tuple(table))
    flat = flat if flat.dtype in FLOATS else flat.float()
    value = torch.empty(-(-flat.numel() // 2), dtype=torch.uint8)
    scale = torch.empty(-(-flat.numel() // GROUP))
    native.round4(flat.contiguous(), bounds, order, value, scale)
    return value, scale


def tile(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Memory for some rows of a weight that become a dtype: of that one, or fp32 where the kernels don't write it."""
    return workspace.empty(shape, dtype if dtype in FLOATS else torch.float32, torch.device("cpu"))


def _tables(weight: Bit4) -> Tensor:
    """What kernels.h calls tables4, fp32."""
    table, nested = _table(weight.table), weight.nested
    if nested is None:
        return table
    return torch.cat([table, nested.offset.view(1), nested.code, nested.absmax])


@cache
def _table(numbers: tuple[float, ...]) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor(numbers)


@cache
def _bounds(table: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Between the numbers in order, in fp32, and which of the table each of them is."""
    with torch.inference_mode(mode=False):
        numbers = torch.tensor(table)
        order = numbers.argsort()
        return (numbers[order[:-1]] + numbers[order[1:]]) / 2, order.int()
