"""The kernels as operators of torch, so that torch.compile and torch.export know them."""

import torch
from torch import Tensor

from llm_quant import blocks, native
from llm_quant.blocks import Blocks


@torch.library.custom_op("llm_quant::blocks_linear", mutates_args=(), device_types="cpu")
def blocks_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    kind: int,
    rows: int,
    columns: int,
    group: int,
) -> Tensor:
    """`blocks.linear` of x (M, K) with the fields of a `Blocks`: (M, N)."""
    packed = Blocks(kind=kind, rows=rows, columns=columns, group=group, weight=weight, scale=scale, zero=zero)
    return blocks.linear(x, packed, bias)


@blocks_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    kind: int,
    rows: int,
    columns: int,
    group: int,
) -> Tensor:
    return x.new_empty(x.size(0), rows)


@torch.library.custom_op("llm_quant::bf16_linear", mutates_args=(), device_types="cpu")
def bf16_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Few rows x (M, K) times a weight (N, K), both bf16, plus bias (N,) fp32: (M, N)."""
    return native.linear(x, weight, kind=native.BF16, n=weight.size(0), group=weight.size(1), bias=bias)


@bf16_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0))
