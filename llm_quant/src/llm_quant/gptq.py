"""int4 by GPTQ: each column's error of rounding is made up for by the columns that follow (arXiv 2210.17323).

Shapes: N rows (outputs), K columns (inputs), G groups of columns.
"""

import torch
from torch import Tensor

from llm_quant.canonical import (
    Int4,
    pack_nibbles,
    require_groups,
    round_int4,
    row_pieces,
    stack_int4,
)
from llm_quant.clipping import DAMPING, best_grid, diagonal_blocks
from llm_quant.hessian import damped, squared_error

BLOCK = 128  # columns whose errors reach the later ones together, in one product of matrices
ATTEMPTS = 4  # at a factorization, with ten times the damping in each


def gptq(
    weight: Tensor, hessian: Tensor, group: int, *, damping: float = DAMPING, dtype: torch.dtype = torch.bfloat16
) -> Int4:
    """The int4 of a weight (N, K) whose outputs for the layer's inputs are nearest, column after column.

    `hessian` (K, K) is that of the inputs, as `Hessian` sums it, and its dtype that of the computation; `damping` is
    added to its diagonal, as a share of the mean there. `dtype` is that of the scales.

    Columns are taken by falling H_kk, so that those that matter most have the most others to make up for them (the
    paper's act order). Scales and zeros are found beforehand, as `clip_int4` does, and each belongs to neighbouring
    columns as ever, so the order needn't be stored. A row that would come out worse than by `round_int4`, as H sees
    it, is rounded so. ValueError for columns that aren't whole groups, a Hessian of another shape, and for numbers
    that are infinite or none.
    """
    require_groups(weight, group)
    regular = damped(weight, hessian, damping)
    order = torch.argsort(regular.diagonal(), descending=True, stable=True)
    blocks = diagonal_blocks(regular, group)
    regular = regular[order[:, None], order]  # one copy of a large matrix at a time
    factor = _factor(regular, damping)
    del regular
    parts: list[Int4] = []
    for rows in row_pieces(weight):
        rows = rows.to(hessian.dtype)
        found = _compensated(rows, best_grid(rows.unflatten(1, (-1, group)), blocks, dtype), factor, order)
        parts.append(_better(rows, found, round_int4(rows, group, dtype=dtype), hessian))
    return stack_int4(parts)


def _factor(regular: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped Hessian (K, K)."""
    for _ in range(ATTEMPTS):
        lower, failed = torch.linalg.cholesky_ex(regular)
        if not bool(failed):
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not bool(failed):
                return upper
        damping *= 10  # rounding has made it indefinite
        regular.diagonal().add_(damping)
    raise ValueError("its inputs give a Hessian that can't be factored; give more text, or more damping")


def _compensated(weight: Tensor, grid: tuple[Tensor, Tensor], factor: Tensor, order: Tensor) -> Int4:
    """GPTQ's rounding of a weight (N, K), in the order given, to a grid of scales and zeros (N, G)."""
    scale, zero = grid
    group = weight.size(1) // scale.size(1)
    left = weight.t()[order].contiguous()  # (K, N): a column lies in one piece
    scales, zeros = (each.t()[order // group] for each in (scale.to(weight.dtype), zero.to(weight.dtype)))  # (K, N)
    whole = torch.empty_like(left, dtype=torch.uint8)
    for first in range(0, left.size(0), BLOCK):
        some = slice(first, first + BLOCK)
        errors = _round_block(left[some], scales[some], zeros[some], factor[some, some], whole[some])
        left[first + BLOCK :].addmm_(factor[some, first + BLOCK :].t(), errors, alpha=-1)
    value = torch.empty_like(whole)
    value[order] = whole
    return Int4(value=pack_nibbles(value.t().contiguous()), scale=scale, zero=grid[1].to(torch.uint8))


def _round_block(left: Tensor, scale: Tensor, zero: Tensor, factor: Tensor, whole: Tensor) -> Tensor:
    """Round columns, here the rows of `left` (J, N), into `whole`, one after the other; their errors (J, N).

    Each error, over the diagonal of the factor (J, J), is taken from the columns that follow.
    """
    errors = torch.empty_like(left)
    for j in range(left.size(0)):
        value = (left[j] / scale[j] + zero[j]).round_().clamp_(0, 15)
        errors[j] = (left[j] - (value - zero[j]) * scale[j]) / factor[j, j]
        left[j + 1 :].addr_(factor[j, j + 1 :], errors[j], alpha=-1)
        whole[j] = value.to(torch.uint8)
    return errors


def _better(weight: Tensor, one: Int4, other: Int4, hessian: Tensor) -> Int4:
    """The rows of `one`, but those of `other` where these change the outputs less."""
    errors = [squared_error(each.dequantize(weight.dtype) - weight, hessian) for each in (one, other)]
    keep = (errors[0] <= errors[1])[:, None]
    value, scale, zero = (
        torch.where(keep, getattr(one, name), getattr(other, name)) for name in ("value", "scale", "zero")
    )
    return Int4(value=value, scale=scale, zero=zero)
