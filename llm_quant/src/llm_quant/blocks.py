"""The layout of the CPU kernels, 16 rows of weights side by side, and products with it.

Shapes: M rows of x, N rows of weights, K columns, G groups of columns, B blocks of 16 rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_quant import native, operations
from llm_quant.canonical import Int4, Int8, Quantized, pack_nibbles, unpack_nibbles
from llm_quant.memory import Arena

LANES = 16
FEW = 16  # rows of x for which weights are expanded for torch's product where the kernels don't take many
TILE_BYTES = 4 * 2**20  # of expanded weights, which stay in a processor's cache until they have been multiplied
LARGEST_GROUP = 1024  # columns whose sum fits into 32 bits


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A weight in blocks: int8 bytes (B, K/4, 16, 4) or int4 bytes (B, K/8, 16, 4), as kernels.h tells.

    `scale` of int8 is (B * 16,) fp32; that of int4 is (B, G, 16) bf16 or fp16, and so is `zero`, uint8.
    """

    kind: int
    rows: int
    columns: int
    group: int
    weight: Tensor
    scale: Tensor
    zero: Tensor | None


def fits(weight: Quantized) -> bool:
    """Whether the kernels can take the weight: whole runs of columns, and scales that 16 bits hold."""
    if isinstance(weight, Int8):
        return weight.shape[1] % 4 == 0
    return weight.group % 8 == 0 and weight.scale.dtype in (torch.bfloat16, torch.float16)


def to_blocks(weight: Quantized, arena: Arena | None = None) -> Blocks:
    """The weight in blocks, in the memory of `arena` where there is one."""
    keep = torch.Tensor.contiguous if arena is None else arena.copy
    return _int8(weight, keep) if isinstance(weight, Int8) else _int4(weight, keep)


def from_blocks(blocks: Blocks) -> Quantized:
    """The weight that was put in blocks; a group beyond 1,024 columns stays divided."""
    b = blocks
    if b.kind == native.INT8:
        value = b.weight.transpose(1, 2).reshape(-1, b.columns)[: b.rows] ^ 128
        return Int8(value=value.contiguous().view(torch.int8), scale=b.scale[: b.rows])
    assert b.zero is not None
    nibbles = torch.stack((b.weight & 15, b.weight >> 4), dim=2)  # (B, K/8, 2, 16, 4)
    whole = nibbles.permute(0, 3, 1, 2, 4).reshape(-1, b.columns)[: b.rows]
    scale, zero = (each.transpose(1, 2).reshape(-1, each.size(1))[: b.rows] for each in (b.scale, b.zero))
    return Int4(value=pack_nibbles(whole), scale=scale, zero=zero)


def linear(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    """x (M, K), fp32 or bf16 and contiguous, times a weight in blocks, plus bias (N,) fp32: (M, N)."""
    if x.size(0) <= FEW or native.takes_many():
        b = blocks
        y = native.linear(x, b.weight, kind=b.kind, n=b.rows, group=b.group, scale=b.scale, zero=b.zero, bias=bias)
        if operations.here.recorder is not None:
            operations.note_linear(x, y, b.kind, b.group, (b.weight, b.scale, b.zero, bias))
        return y
    return _expanded(x, blocks, None if bias is None else bias.to(x.dtype))


def _expanded(x: Tensor, blocks: Blocks, bias: Tensor | None) -> Tensor:
    """The product by torch, a tile of weights at a time."""
    b, count = blocks, -(-blocks.rows // LANES)
    out = x.new_empty(x.size(0), b.rows)
    step = min(count, max(1, TILE_BYTES // (LANES * b.columns * x.element_size())))
    tile = x.new_empty(step * LANES, b.columns)
    for first in range(0, count, step):
        some = range(first, min(first + step, count))
        native.expand(
            b.weight, kind=b.kind, k=b.columns, group=b.group, scale=b.scale, zero=b.zero, blocks=some, out=tile
        )
        rows = slice(first * LANES, min(some.stop * LANES, b.rows))
        out[:, rows] = F.linear(x, tile[: rows.stop - rows.start], None if bias is None else bias[rows])
    return out


def _int8(weight: Int8, keep: Callable[[Tensor], Tensor]) -> Blocks:
    rows, columns = weight.shape
    value = _padded(weight.value.view(torch.uint8) ^ 128, 128)  # the kernels multiply bytes without a sign
    value = keep(value.view(-1, LANES, columns // 4, 4).transpose(1, 2))
    scale = _padded(weight.scale.float(), 0)
    return Blocks(kind=native.INT8, rows=rows, columns=columns, group=columns, weight=value, scale=scale, zero=None)


def _int4(weight: Int4, keep: Callable[[Tensor], Tensor]) -> Blocks:
    rows, columns = weight.shape
    value = _padded(unpack_nibbles(weight.value), 0).view(-1, LANES, columns // 8, 2, 4)
    value = keep((value[:, :, :, 0] | (value[:, :, :, 1] << 4)).transpose(1, 2))  # (B, K/8, 16, 4)
    scale, zero, group = weight.scale, weight.zero, weight.group
    if group > LARGEST_GROUP:  # parts of a group with the same scale
        part = next(size for size in range(LARGEST_GROUP, 0, -8) if group % size == 0)
        scale, zero = (each.repeat_interleave(group // part, dim=1) for each in (scale, zero))
        group = part
    scale, zero = (_padded(each, 0).view(-1, LANES, columns // group).transpose(1, 2) for each in (scale, zero))
    return Blocks(
        kind=native.INT4,
        rows=rows,
        columns=columns,
        group=group,
        weight=value,
        scale=keep(scale),
        zero=keep(zero),
    )


def _padded(x: Tensor, value: int) -> Tensor:
    """Rows added up to a multiple of 16."""
    missing = -x.size(0) % LANES
    return x if missing == 0 else torch.cat((x, x.new_full((missing, *x.shape[1:]), value)))
