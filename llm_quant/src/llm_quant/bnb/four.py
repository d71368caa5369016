"""nf4 and fp4: four bits a weight, which choose one of 16 numbers, and one scale for 64 weights.

Blocks of 64 run through the rows of a weight one after another, so that one may lie in two rows. With double
quantization ("-dq") the scales are of 8 bits, in blocks of 256 that have scales of their own (QLoRA, section 3).
Shapes: N outputs, K inputs, S = N K / 64 scales, rounded up.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from llm_quant import workspace
from llm_quant.bnb.layer import FLOATS, BnbLinear
from llm_quant.bnb.library import library
from llm_quant.canonical import PIECE

BLOCK = 64
NESTED_BLOCK = 256
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
class Nested:
    """Scales in 8 bits: scale = code[value] * absmax of its block + offset."""

    code: Tensor  # (256,) fp32
    absmax: Tensor  # (S / 256,) fp32
    offset: Tensor  # () fp32


@dataclass(frozen=True, kw_only=True)
class Bit4:
    """A weight (N, K) in nf4 or fp4, as bitsandbytes stores it."""

    code: Code
    shape: tuple[int, int]
    value: Tensor  # (N K / 2,) uint8, rounded up: the first weight in the high nibble, the second in the low
    absmax: Tensor  # (S,) fp32, or uint8 where it is nested
    nested: Nested | None = None

    def scales(self) -> Tensor:
        """The scale of each block (S,), fp32."""
        if self.nested is None:
            return self.absmax
        state = library().functional.QuantState(
            absmax=self.nested.absmax, code=self.nested.code, blocksize=NESTED_BLOCK, dtype=torch.float32
        )
        return library().functional.dequantize_blockwise(self.absmax, state) + self.nested.offset

    def rows(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The weight, some rows (R, K) at a time, in one of `FLOATS`."""
        (n, k), scales = self.shape, self.scales()
        step = max(EXPANDED // k // BLOCK, 1) * BLOCK  # of rows: whole blocks, whatever K is
        for first in range(0, n, step):
            count, start = min(step, n - first), first * k
            value = self.value[start // 2 : -(-(start + count * k) // 2)]
            yield _expand(value, scales[start // BLOCK :], self.code, count * k, dtype).view(count, k)


def round_bit4(weight: Tensor, code: Code, *, nested: bool = False) -> Bit4:
    """The nearest of a weight (N, K): the largest of each block, without its sign, becomes 1 times the scale."""
    functional = library().functional
    flat = weight.detach().reshape(-1)
    values, scales = [], []
    for piece in flat.split(PIECE):
        whole = piece if piece.dtype in FLOATS else piece.float()
        value, state = functional.quantize_4bit(whole, blocksize=BLOCK, quant_type=code)
        values.append(value.view(-1))
        scales.append(state.absmax)
    shape = (weight.size(0), weight.size(1))
    value, absmax = torch.cat(values), torch.cat(scales).float()
    if not nested:
        return Bit4(code=code, shape=shape, value=value, absmax=absmax)
    offset = absmax.mean()
    small, state = functional.quantize_blockwise(absmax - offset, blocksize=NESTED_BLOCK)
    deeper = Nested(code=state.code.float(), absmax=state.absmax.float(), offset=offset)
    return Bit4(code=code, shape=shape, value=value, absmax=small, nested=deeper)


class Bit4Linear(BnbLinear):
    """A `BnbLinear` with a `Bit4`. On CUDA bitsandbytes' kernels read it; else some rows are expanded at a time."""

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
    def weight(self) -> Bit4:
        """The weight; its tensors are those of the layer."""
        shape, nested = (self.out_features, self.in_features), None
        if self.nested_code is not None and self.nested_absmax is not None and self.nested_offset is not None:
            nested = Nested(code=self.nested_code, absmax=self.nested_absmax, offset=self.nested_offset)
        return Bit4(code=self.code, shape=shape, value=self.value, absmax=self.absmax, nested=nested)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.cat(list(self.weight.rows(dtype)))

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if x.is_cuda and self.in_features % BLOCK == 0:
            return _fused(x, self.weight, bias)
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
    """The first `count` numbers of packed ones, flat.

    As rows of one block: of longer rows that aren't whole blocks, bitsandbytes 0.50 on the CPU takes each row to begin
    a block of its own, which its rounding doesn't.
    """
    functional, whole = library().functional, count // BLOCK * BLOCK
    found = []
    for first, shape in ((0, (whole // BLOCK, BLOCK)), (whole, (1, count - whole))):
        if shape[0] * shape[1]:
            state = functional.QuantState(
                absmax=scales[first // BLOCK : first // BLOCK + shape[0]],
                shape=torch.Size(shape),
                blocksize=BLOCK,
                quant_type=code,
                dtype=dtype,
            )
            packed = value[first // 2 : -(-(first + shape[0] * shape[1]) // 2), None]
            found.append(functional.dequantize_4bit(packed, state).reshape(-1))
    return found[0] if len(found) == 1 else torch.cat(found)
