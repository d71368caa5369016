"""nf4 and fp4: four bits a weight, which choose one of 16 numbers, and one scale for 64 weights.

Blocks of 64 run through the rows of a weight one after another, so that one may lie in two rows. With double
quantization ("-dq") the scales are of 8 bits, in blocks of 256 that have scales of their own (QLoRA, section 3).
Shapes: N outputs, K inputs, S = N K / 64 scales, rounded up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_quant import workspace
from llm_quant.bnb import by_kernels
from llm_quant.bnb.layer import FLOATS, BnbLinear
from llm_quant.bnb.library import is_there, library
from llm_quant.bnb.nested import NESTED_BLOCK, Nested, round_nested
from llm_quant.canonical import PIECE

BLOCK = 64
SMALLEST = 1e-38  # scale that is divided by
EXPANDED = 2**21  # numbers of a weight that are there at a time in a product

Code: TypeAlias = Literal["nf4", "fp4"]
TABLES: Mapping[Code, tuple[float, ...]] = {
    # QLoRA, appendix E
    "nf4": (
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ),
    # a sign, two bits of exponent and one of mantissa; the largest is 1
    "fp4": tuple(sign * number / 12 for sign in (1, -1) for number in (0, 0.0625, 8, 12, 4, 6, 2, 3)),
}
"""The numbers that four bits choose from."""


@dataclass(frozen=True, kw_only=True)
class Bit4:
    """A weight (N, K) in nf4 or fp4, as bitsandbytes stores it."""

    code: Code
    shape: tuple[int, int]
    value: Tensor  # (N K / 2,) uint8, rounded up: the first weight in the high nibble, the second in the low
    absmax: Tensor  # (S,) fp32, or uint8 where it is nested
    nested: Nested | None = None

    @property
    def table(self) -> tuple[float, ...]:
        """The numbers that four bits choose from."""
        return TABLES[self.code]

    def scales(self) -> Tensor:
        """The scale of each block (S,), fp32."""
        return self.absmax if self.nested is None else self.nested.scales(self.absmax)

    def rows(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight, some rows (R, K) at a time, in one of `FLOATS`; the next ones may take their place in memory."""
        (n, k), fast = self.shape, by_kernels.serve(self.value)
        step = max(EXPANDED // k // BLOCK, 1) * BLOCK  # of rows: whole blocks, whatever K is
        tile = by_kernels.tile((min(step, n), k), dtype) if fast else None
        scales = self.absmax if fast else self.scales()
        for first in range(0, n, step):
            count, start = min(step, n - first), first * k
            if tile is not None:
                yield by_kernels.whole(self, start, tile[:count]).to(dtype)
                continue
            value = self.value[start // 2 : -(-(start + count * k) // 2)]
            yield _expand(value, scales[start // BLOCK :], self.code, count * k, dtype).view(count, k)


def round_bit4(weight: Tensor, code: Code, *, nested: bool = False) -> Bit4:
    """The nearest of a weight (N, K): the largest of each block, without its sign, becomes 1 times the scale."""
    flat = weight.detach().reshape(-1)
    found = [_rounded(piece if piece.dtype in FLOATS else piece.float(), code) for piece in flat.split(PIECE)]
    shape = (weight.size(0), weight.size(1))
    value, absmax = (torch.cat(each) for each in zip(*found, strict=True))
    if not nested:
        return Bit4(code=code, shape=shape, value=value, absmax=absmax)
    small, deeper = round_nested(absmax)
    return Bit4(code=code, shape=shape, value=value, absmax=small, nested=deeper)


def _rounded(piece: Tensor, code: Code) -> tuple[Tensor, Tensor]:
    """The values and scales, fp32, of a piece."""
    if by_kernels.serve(piece):
        return by_kernels.rounded(piece, TABLES[code])
    blocks = F.pad(piece.float(), (0, -piece.numel() % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(dim=1)
    table = torch.tensor(TABLES[code], device=piece.device)
    order = table.argsort()
    bounds = (table[order[:-1]] + table[order[1:]]) / 2
    which = order[torch.bucketize(blocks * absmax.clamp_min(SMALLEST).reciprocal()[:, None], bounds)].view(-1, 2)
    return (which[:, 0] << 4 | which[:, 1]).to(torch.uint8)[: -(-piece.numel() // 2)], absmax


class Bit4Linear(BnbLinear):
    """A `BnbLinear` with a `Bit4`. On CUDA bitsandbytes multiplies, where it is installed; few rows are the kernels' on
    the CPU; else some rows of the weight are expanded at a time."""

    value: Tensor
    absmax: Tensor
    nested_code: Tensor | None
    nested_absmax: Tensor | None
    nested_offset: Tensor | None

    def __init__(self, weight: Bit4, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape, bias)
        self.code: Code = weight.code
        self.register_buffer("value", weight.value)
        self.register_buffer("absmax", weight.absmax)
        for field in fields(Nested):
            tensor = None if weight.nested is None else getattr(weight.nested, field.name)
            self.register_buffer(f"nested_{field.name}", tensor)

    @property
    def kind(self) -> str:
        return f"bnb.{self.code}" + ("" if self.nested_code is None else "-dq")

    @property
    def has_kernels(self) -> bool:
        if self.value.is_cuda:
            return self.in_features % BLOCK == 0 and is_there()
        return by_kernels.multiply(1, self.in_features)

    @property
    def weight(self) -> Bit4:
        """The weight; its tensors are those of the layer."""
        shape, nested = (self.out_features, self.in_features), None
        if self.nested_code is not None and self.nested_absmax is not None and self.nested_offset is not None:
            nested = Nested(code=self.nested_code, absmax=self.nested_absmax, offset=self.nested_offset)
        return Bit4(code=self.code, shape=shape, value=self.value, absmax=self.absmax, nested=nested)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        weight = self.weight
        if by_kernels.serve(self.value):
            return by_kernels.whole(weight, 0, by_kernels.tile(weight.shape, dtype)).to(dtype)
        return torch.cat(list(weight.rows(dtype)))

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if x.is_cuda and self.has_kernels:
            return _fused(x, self.weight, bias)
        if x.dtype in by_kernels.FLOATS and by_kernels.serve(x) and by_kernels.multiply(*x.shape):
            return by_kernels.times(x, self.weight, bias)
        y, first = workspace.empty((x.size(0), self.out_features), x.dtype, x.device), 0
        for rows in self.weight.rows(x.dtype):
            here = slice(first, first + rows.size(0))
            if bias is None:
                torch.mm(x, rows.t(), out=y[:, here])
            else:
                torch.addmm(bias[here], x, rows.t(), out=y[:, here])
            first = here.stop
        return y

    def times_weight(self, grad: Tensor) -> Tensor:
        shape, first = (grad.size(0), self.in_features), 0
        total = workspace.empty(shape, torch.float32, grad.device).zero_()
        part = workspace.empty(shape, grad.dtype, grad.device)
        for rows in self.weight.rows(grad.dtype):
            total += torch.mm(grad[:, first : first + rows.size(0)], rows, out=part)
            first += rows.size(0)
        return total


def _fused(x: Tensor, weight: Bit4, bias: Tensor | None) -> Tensor:
    """bitsandbytes' own product, which expands no weight."""
    bnb, nested = library(), None
    state = bnb.functional.QuantState
    if weight.nested is not None:
        nested = state(
            absmax=weight.nested.absmax, code=weight.nested.code, blocksize=NESTED_BLOCK, dtype=torch.float32
        )
    whole = state(
        absmax=weight.absmax,
        shape=torch.Size(weight.shape),
        code=torch.tensor(TABLES[weight.code], device=x.device),
        blocksize=BLOCK,
        quant_type=weight.code,
        dtype=x.dtype,
        offset=None if weight.nested is None else weight.nested.offset,
        state2=nested,
    )
    return bnb.matmul_4bit(x, weight.value[:, None], whole, bias=bias)


def _expand(value: Tensor, scales: Tensor, code: Code, count: int, dtype: torch.dtype) -> Tensor:
    """The first `count` numbers of packed ones, flat."""
    table = torch.tensor(TABLES[code], device=value.device)
    numbers = table[torch.stack([value >> 4, value & 15], dim=1).int()].view(-1)
    return (F.pad(numbers, (0, -numbers.numel() % BLOCK)).view(-1, BLOCK) * scales[:, None]).view(-1)[:count].to(dtype)
