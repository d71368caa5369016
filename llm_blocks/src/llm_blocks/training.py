"""Steps of a layer whose gradients are taken, each one function that keeps its inputs alone and makes the rest again.

torch's operators keep what each of them made on the way: three tensors for a gated MLP where two are enough, two for a
norm where one is. Shapes: B batch, T time, C width, H heads, D head size, R dimensions of a head that turn, I hidden.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm_quant import steps, workspace


def applies(*tensors: Tensor) -> bool:
    """Whether these functions serve: in a workspace, on the CPU, for tensors of one type whose gradients are recorded.

    Elsewhere torch's operators stay, for they can be differentiated twice, forward and by `torch.func`.
    """
    first = tensors[0]
    return (
        workspace.in_use()
        and torch.is_grad_enabled()
        and any(each.requires_grad for each in tensors)
        and all(each.dtype == first.dtype and each.device.type == "cpu" for each in tensors)
        and not torch.is_autocast_enabled("cpu")
    )


class RmsNorm(torch.autograd.Function):
    """x (..., C) / rms(x) * weight (C,), the quotient in the dtype of x, its statistics in fp32 (arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y = steps.rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, (x.size(-1),), None, eps) * weight if y is None else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dy,), (x, weight) = outputs, ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            dx = steps.norm_backward(x, weight, dy.contiguous(), ctx.eps)
            if dx is not None:
                return dx, None, None
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(ctx.eps).rsqrt_()  # (..., 1)
        dx = dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (dy.float() * wide * scale).view(-1, x.size(-1)).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            d = workspace.empty(x.shape, torch.float32)
            torch.mul(dy, weight, out=d)
            along = torch.linalg.vecdot(d, wide).unsqueeze(-1).mul_(scale.pow(3)).div_(x.size(-1))
            dx = d.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype)
        return dx, dweight, None


class Rotate(torch.autograd.Function):
    """Heads (B, H, T, D) turned by angles (1 or B, 1, T, R), as `rotate`; nothing of them is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        return _turned(x, cos, signed_sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, signed_sin = ctx.saved_tensors
        return _turned(outputs[0], cos, -signed_sin), None, None


class SiluGate(torch.autograd.Function):
    """silu(gate) * up of one shape (..., I) (arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        y = workspace.empty(gate.shape, gate.dtype)
        return torch.ops.aten.silu.out(gate, out=y).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d,), (gate, up) = outputs, ctx.saved_tensors
        found = steps.gated_backward(gate, up, d.contiguous())
        if found is not None:
            return found
        dup = torch.ops.aten.silu.out(gate, out=workspace.empty(gate.shape, gate.dtype)).mul_(d)
        inner = torch.mul(d, up, out=workspace.empty(gate.shape, gate.dtype))
        return torch.ops.aten.silu_backward.grad_input(inner, gate, grad_input=inner), dup


def _turned(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """What turns where no gradients are recorded."""
    turned = steps.rotate(x, cos, signed_sin)
    if turned is not None:
        return turned
    turning, (batch, heads, time, size) = cos.size(-1), x.shape
    y = workspace.empty((batch, time, heads, size), x.dtype).transpose(1, 2)
    y[..., turning:] = x[..., turning:]
    half = turning // 2
    torch.mul(x[..., :turning], cos, out=y[..., :turning])
    y[..., :half].addcmul_(x[..., half:turning], signed_sin[..., :half])
    y[..., half:turning].addcmul_(x[..., :half], signed_sin[..., half:])
    return y
