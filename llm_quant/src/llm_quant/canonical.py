"""Weights of whole numbers as they are stored, the same on every processor.

Shapes: N rows (outputs), K columns (inputs), G groups of columns that share a scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Int8:
    """Symmetric int8: weight = scale * value, with one scale a row."""

    value: Tensor  # (N, K) int8
    scale: Tensor  # (N,) floating

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        return self.value.size(0), self.value.size(1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K)."""
        return (self.value.float() * self.scale.float()[:, None]).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Int4:
    """Asymmetric int4: weight = scale * (value - zero), with one scale and zero for a group of columns of a row."""

    value: Tensor  # (N, K/2) uint8: the even column in the low nibble, the odd one in the high
    scale: Tensor  # (N, G) floating
    zero: Tensor  # (N, G) uint8, 0 to 15; some files have 16

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        return self.value.size(0), 2 * self.value.size(1)

    @property
    def group(self) -> int:
        """Columns in a group."""
        return self.shape[1] // self.scale.size(1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K)."""
        whole = unpack_nibbles(self.value).unflatten(1, (-1, self.group)).float()
        centred = whole - self.zero.float()[:, :, None]
        return (centred * self.scale.float()[:, :, None]).flatten(1).to(dtype)


Quantized: TypeAlias = Int8 | Int4


PIECE = 2**24  # numbers that are rounded at a time, which takes several times their bytes


def round_int8(weight: Tensor) -> Int8:
    """The nearest int8 of a weight (N, K): the largest of each row becomes 127."""
    parts = [_round_int8(rows.float()) for rows in row_pieces(weight)]
    return Int8(value=torch.cat([part.value for part in parts]), scale=torch.cat([part.scale for part in parts]))


def _round_int8(weight: Tensor) -> Int8:
    scale = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    value = (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return Int8(value=value, scale=scale)


def round_int4(weight: Tensor, group: int, *, dtype: torch.dtype = torch.bfloat16) -> Int4:
    """The nearest int4 of a weight (N, K) by groups of columns: its least and its largest become 0 and 15.

    0 stays 0. `dtype` is that of the scales, which are rounded before the weights are. ValueError for columns that
    aren't whole groups.
    """
    require_groups(weight, group)
    return stack_int4([_round_int4(rows.float(), group, dtype) for rows in row_pieces(weight)])


def require_groups(weight: Tensor, group: int) -> None:
    """ValueError for columns that aren't whole groups."""
    if group < 1 or weight.size(1) % group:
        raise ValueError(f"{weight.size(1)} columns are no whole groups of {group}; choose another group_size")


def rows_of(weight: Int4, rows: slice) -> Int4:
    """Some rows of a weight."""
    return Int4(value=weight.value[rows], scale=weight.scale[rows], zero=weight.zero[rows])


def stack_int4(parts: Sequence[Int4]) -> Int4:
    """The rows of several weights as one."""
    value, scale, zero = (torch.cat([getattr(part, name) for part in parts]) for name in ("value", "scale", "zero"))
    return Int4(value=value, scale=scale, zero=zero)


def _round_int4(weight: Tensor, group: int, dtype: torch.dtype) -> Int4:
    grouped = weight.unflatten(1, (-1, group))  # (N, G, group)
    scale, zero = int4_grid(grouped, dtype)
    value = int4_values(grouped, scale, zero).flatten(1)
    return Int4(value=pack_nibbles(value.to(torch.uint8)), scale=scale, zero=zero.to(torch.uint8))


def int4_grid(grouped: Tensor, dtype: torch.dtype, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """The scale in `dtype` and the zero, both (N, G), of weights (N, G, group) fp32.

    What lies beyond `share` of the least and the largest of a group will be clipped.
    """
    least, most = share * grouped.amin(dim=2).clamp(max=0), share * grouped.amax(dim=2).clamp(min=0)
    scale = ((most - least) / 15).clamp(min=torch.finfo(dtype).tiny).to(dtype)
    return scale, (-least / scale.float()).round_().clamp_(0, 15)


def int4_values(grouped: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The nearest numbers of 0 to 15, in fp32, of weights (N, G, group) on the grid of `int4_grid`."""
    return (grouped / scale.float()[:, :, None] + zero[:, :, None]).round_().clamp_(0, 15)


def row_pieces(weight: Tensor) -> Sequence[Tensor]:
    """Some rows of a weight at a time."""
    return weight.split(max(1, PIECE // max(1, weight.size(1))))


def pack_nibbles(whole: Tensor) -> Tensor:
    """Numbers of 0 to 15, (N, K) uint8, two in a byte: (N, K/2)."""
    return whole[:, ::2] | (whole[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """The numbers (N, K) uint8 of `pack_nibbles`."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)
