"""Normalisation. Shapes: C width."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_blocks import training
from llm_quant import steps


class RMSNorm(nn.Module):
    """Scale x (..., C) to root mean square 1, then by a weight (C,) (arXiv 1910.07467).

    The statistics are fp32 whatever the dtype of x, since squares overflow in half precision; the weight multiplies
    after the cast back, as the checkpoints were trained.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if training.applies(x, self.weight):
            return training.RmsNorm.apply(x, self.weight, self.eps)
        y = steps.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, (x.size(-1),), None, self.eps) * self.weight if y is None else y  # (..., C)

    def extra_repr(self) -> str:
        return f"{self.weight.size(0)}, eps={self.eps}"


class OffsetRMSNorm(nn.Module):
    """Scale x (..., C) to root mean square 1, then by 1 + weight (C,), in fp32 throughout, as Gemma was trained."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = steps.rms_norm(x, self.weight, self.eps, offset=True)
        if y is not None:
            return y
        y = F.rms_norm(x.float(), (x.size(-1),), None, self.eps)
        return (y * (1.0 + self.weight.float())).to(x.dtype)  # (..., C)

    def extra_repr(self) -> str:
        return f"{self.weight.size(0)}, eps={self.eps}"


class LayerNorm(nn.LayerNorm):
    """LayerNorm of x (..., C), in fp32 until the end (arXiv 1607.06450), which the kernels compute for few tokens."""

    def forward(self, input: Tensor) -> Tensor:
        y = steps.layer_norm(input, self.weight, self.bias, self.eps) if len(self.normalized_shape) == 1 else None
        return super().forward(input) if y is None else y  # (..., C)
