"""What the layers of bitsandbytes' formats have in common.

bitsandbytes' own modules change themselves as they compute (weights are packed anew, double quantization is undone,
biases are converted), and quantize by being moved. These hold tensors, and computing changes nothing.

Shapes: M rows of x, N outputs, K inputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from llm_quant.moving import bits_kept

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class BnbLinear(nn.Module, ABC):
    """x W^T + b (..., K) -> (..., N) in the dtype of x. Gradients reach x, never the weight."""

    bias: Tensor | None

    def __init__(self, shape: tuple[int, int], bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    @abstractmethod
    def kind(self) -> str:
        """The scheme, as `quantize` takes it."""

    @property
    def has_kernels(self) -> bool:
        """Whether a token is computed without making the weight whole, where the layer is and is installed."""
        return False

    @abstractmethod
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight (N, K)."""

    @abstractmethod
    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The product of rows (M, K), in one of `FLOATS`, with a bias of the same dtype; without gradients."""

    @abstractmethod
    def times_weight(self, grad: Tensor) -> Tensor:
        """grad (M, N), in one of `FLOATS`, times the weight: (M, K)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if rows.requires_grad and torch.is_grad_enabled():
            y = _Product.apply(rows, self)
        else:
            y = self.product(rows)
        return y.view(*x.shape[:-1], self.out_features)

    def product(self, rows: Tensor) -> Tensor:
        """(M, K) in any floating dtype -> (M, N) in the same."""
        x = rows if rows.dtype in FLOATS else rows.float()
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self.times(x.contiguous(), bias).to(rows.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.kind}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the tensors and never convert them, whatever `module.to(dtype)` asks of the others."""
        return super()._apply(bits_kept(fn), recurse)


class _Product(torch.autograd.Function):
    """The product with a weight that is no parameter."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: BnbLinear) -> Tensor:
        ctx.layer = layer
        return layer.product(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0] if grads[0].dtype in FLOATS else grads[0].float()
        return ctx.layer.times_weight(grad).to(grads[0].dtype), None
