"""Products with quantized weights by torch's own operators: where there are no kernels, and on CUDA.

Shapes: M rows of x, N rows of weights, K columns, G groups of columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_quant.canonical import Int8, Quantized, rows_of

ROWS = 512  # of weights that are dequantized at a time where torch has no operator for them


def linear(x: Tensor, weight: Quantized, bias: Tensor | None) -> Tensor:
    """x (M, K) times a canonical weight, plus bias (N,): (M, N) in the dtype of x."""
    if isinstance(weight, Int8):
        y = _int8(x, weight)
    else:
        y = _by_rows(x, weight)
    return y if bias is None else y + bias.to(y.dtype)


def _int8(x: Tensor, weight: Int8) -> Tensor:
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and x.size(1) % 16 == 0:
        return torch.ops.aten._weight_int8pack_mm(x, weight.value, weight.scale.to(x.dtype))
    if x.device.type == "cpu":
        return _by_rows(x, weight)
    return F.linear(x, weight.value.to(x.dtype)) * weight.scale.to(x.dtype)  # which torch.compile makes one kernel


def _by_rows(x: Tensor, weight: Quantized) -> Tensor:
    """Some rows of weights at a time become what they were before."""
    parts = []
    for first in range(0, weight.shape[0], ROWS):
        rows = slice(first, first + ROWS)
        if isinstance(weight, Int8):
            part: Quantized = Int8(value=weight.value[rows], scale=weight.scale[rows])
        else:
            part = rows_of(weight, rows)
        parts.append(F.linear(x, part.dequantize(x.dtype)))
    return torch.cat(parts, dim=1)
