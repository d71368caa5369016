"""int4 weights in the layout of torch's product for CUDA, aten::_weight_int4pack_mm, whose scales lie beside offsets.

There is a twin of it for the CPU, of another layout and the same numbers: it isn't used, but the tests run by it.
Shapes: M rows of x, N rows of weights, K columns, G groups of columns.
"""

import torch
from torch import Tensor

from llm_quant.canonical import Int4, Quantized, pack_nibbles, unpack_nibbles

GROUPS = (32, 64, 128, 256)
DEPTHS = (8, 4, 2)  # how many times 16 columns lie together; more is faster, where the columns are whole such runs
ROWS = 8  # that lie together
PIECE = 512  # columns that are read back at a time
CAPABILITY = (8, 0)  # of the oldest GPU that has the product (Ampere)


def usable(weight: Quantized) -> bool:
    """Whether the product is there for the weight, on the device where it is."""
    device = weight.value.device
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= CAPABILITY and fits(weight)


def fits(weight: Quantized) -> bool:
    """Whether the layout can hold the weight."""
    if not isinstance(weight, Int4):
        return False
    rows, columns = weight.shape
    return weight.group in GROUPS and rows % ROWS == 0 and columns % (16 * DEPTHS[-1]) == 0


def to_tiles(value: Tensor) -> Tensor:
    """The nibbles (N, K/2) of a canonical weight in tiles."""
    depth = next(depth for depth in DEPTHS if 2 * value.size(1) % (16 * depth) == 0)
    if value.device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_nibbles(value).int(), depth)
    swapped = (value << 4) | (value >> 4)  # it has the even column in the high nibble
    return torch.ops.aten._convert_weight_to_int4pack(swapped.contiguous(), depth)


def from_tiles(tiles: Tensor, rows: int, columns: int, group: int) -> Tensor:
    """The nibbles (N, K/2) that were put in tiles: products with columns of the identity read them, exactly."""
    plain = torch.zeros(columns // group, rows, 2, dtype=torch.bfloat16, device=tiles.device)
    plain[..., 0] = 1
    parts = []
    for first in range(0, columns, PIECE):
        unit = torch.zeros(min(PIECE, columns - first), columns, dtype=torch.bfloat16, device=tiles.device)
        unit[:, first:].fill_diagonal_(1)
        parts.append((linear(unit, tiles, plain, group) + 8).to(torch.uint8).T)  # (N, piece)
    return pack_nibbles(torch.cat(parts, dim=1))


def scales_and_zeros(weight: Int4) -> Tensor:
    """The scale s and offset (8 - z) s of each group, (G, N, 2) bf16: a weight is s (q - 8) plus the offset.

    Rounded to bf16, the offset is off by 1/32 of s at most, beside the 1/2 by which a weight may be.
    """
    scale = weight.scale.to(torch.bfloat16).float()
    offset = (8 - weight.zero.float()) * scale
    return torch.stack((scale, offset), dim=2).transpose(0, 1).to(torch.bfloat16).contiguous()


def linear(x: Tensor, tiles: Tensor, scales: Tensor, group: int) -> Tensor:
    """x (M, K), rounded to bf16, times a weight in tiles: (M, N) in the dtype of x."""
    taken = x.to(torch.bfloat16)
    if x.device.type == "cpu":
        return torch.ops.aten._weight_int4pack_mm_for_cpu(taken, tiles, group, scales).to(x.dtype)
    return torch.ops.aten._weight_int4pack_mm(taken, tiles, group, scales).to(x.dtype)
