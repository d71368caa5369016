"""The small steps between the products of a decoded token, each one call where torch takes several operators.

They are for a few rows on the CPU and without gradients; each gives None where it doesn't apply, and the caller goes on
with torch's operators. Shapes: C width.
"""

import torch
from torch import Tensor

from llm_quant import native

FEW = 2**16  # numbers, for which a call costs more than the work; torch shares out what is more between threads


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, offset: bool = False) -> Tensor | None:
    """x (..., C) / rms(x) * weight (C,), or with `offset` 1 + weight; None where torch has to do it.

    The statistics are fp32. Without `offset` the quotient is rounded to the dtype of x before the weight multiplies;
    with it everything is fp32 until the end.
    """
    if not _applies(x, weight) or weight.numel() != x.size(-1):
        return None
    return native.norm(x.view(-1, x.size(-1)), weight, eps, offset=offset).view(x.shape)


def silu_gate(gate: Tensor, up: Tensor) -> Tensor | None:
    """silu(gate) * up, of one shape; None where torch has to do it."""
    return native.gated(gate, up) if _applies(gate, up) and gate.shape == up.shape else None


def _applies(x: Tensor, y: Tensor) -> bool:
    return (
        x.numel() <= FEW
        and x.dtype == y.dtype
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.device.type == y.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (x.requires_grad or y.requires_grad))
        and x.is_contiguous()
        and y.is_contiguous()
        and native.level() is not None
    )
