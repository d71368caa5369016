"""int4 with groups clipped where that costs the outputs least (AWQ, arXiv 2306.00978, its search for clipping).

Shapes: N rows (outputs), K columns (inputs), G groups of columns.
"""

import torch
from torch import Tensor

from llm_quant.canonical import Int4, int4_grid, int4_values, pack_nibbles, require_groups, row_pieces, stack_int4
from llm_quant.hessian import damped

DAMPING = 0.01  # of the Hessian's mean, as in GPTQ's paper: what no input was seen for keeps some weight
SHARES = tuple(1 - step / 40 for step in range(21))  # of a group's extremes, down to the half


def clip_int4(
    weight: Tensor, hessian: Tensor, group: int, *, damping: float = DAMPING, dtype: torch.dtype = torch.bfloat16
) -> Int4:
    """The int4 of a weight (N, K) with the clipping of each group that changes its part of the output least.

    `hessian` (K, K) is that of the layer's inputs, as `Hessian` sums it; `dtype` is that of the scales. A group is
    judged by itself, by its own block of the Hessian, so nothing but the scales differs from `round_int4`. ValueError
    as from `gptq`.
    """
    require_groups(weight, group)
    blocks = diagonal_blocks(damped(weight, hessian, damping), group)
    return stack_int4([_clipped(rows.to(hessian.dtype), blocks, dtype) for rows in row_pieces(weight)])


def _clipped(weight: Tensor, blocks: Tensor, dtype: torch.dtype) -> Int4:
    grouped = weight.unflatten(1, (blocks.size(0), -1))
    scale, zero = best_grid(grouped, blocks, dtype)
    value = int4_values(grouped, scale, zero).flatten(1)
    return Int4(value=pack_nibbles(value.to(torch.uint8)), scale=scale, zero=zero.to(torch.uint8))


def diagonal_blocks(hessian: Tensor, group: int) -> Tensor:
    """The blocks (G, group, group) of a Hessian (K, K) along its diagonal."""
    squares = hessian.unflatten(1, (-1, group)).unflatten(0, (-1, group))  # (G, group, G, group)
    return squares.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def best_grid(grouped: Tensor, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scale and zero (N, G) of weights (N, G, group) that err least by blocks (G, group, group) of a Hessian."""
    scale, zero = int4_grid(grouped, dtype)
    least = _errors(grouped, blocks, scale, zero)
    for share in SHARES[1:]:
        other = int4_grid(grouped, dtype, share=share)
        errors = _errors(grouped, blocks, *other)
        better = errors < least
        scale, zero = torch.where(better, other[0], scale), torch.where(better, other[1], zero)
        least = torch.where(better, errors, least)
    return scale, zero


def _errors(grouped: Tensor, blocks: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What rounding to a grid adds to each group's part of the output, (N, G), squared."""
    rounded = (int4_values(grouped, scale, zero) - zero[:, :, None]) * scale.float()[:, :, None]
    error = (rounded - grouped).transpose(0, 1)  # (G, N, group)
    return ((error @ blocks) * error).sum(dim=2).t()
