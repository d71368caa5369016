"""Cross-entropy a few positions at a time, so that the logits of all of them are never in memory together.

Shapes: N positions, C width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm_finetune.products import again
from llm_quant import steps, workspace

CHUNK = 256  # positions whose logits are there at once


def linear_cross_entropy(end: nn.Module, x: Tensor, targets: Tensor, weights: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """The sum of weights (N,) times the negative log-likelihoods of targets (N,) after hidden states x (N, C): fp32.

    `end` makes logits (1, n, V) of (1, n, C), whatever it does to get there; it is called once for each `chunk` of
    positions, and the gradients of x and of its trainable parameters are computed right then, in fp32 sums. Positions
    of weight 0 are left out and cost nothing. ValueError for unequal lengths and an empty chunk.
    """
    _check(x, targets, chunk)
    _check(x, weights, chunk)
    counted = weights > 0
    if not bool(counted.all()):
        x, targets, weights = x[counted], targets[counted], weights[counted]
    parameters = [each for each in end.parameters() if each.requires_grad]
    return _Chunked.apply(end, chunk, targets, weights, x, *parameters)


def position_nll(end: nn.Module, x: Tensor, targets: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """The negative log-likelihood (N,) fp32 of each of targets (N,) after hidden states x (N, C).

    For losses whose factor is known only after all sums, as those of preferences: the logits of each `chunk` are made
    again in backward. ValueError for unequal lengths and an empty chunk.
    """
    _check(x, targets, chunk)

    def part(x: Tensor, targets: Tensor) -> Tensor:
        return _nll(end, x, targets)

    pieces = zip(x.split(chunk), targets.split(chunk), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([part(*piece) for piece in pieces])
    return torch.cat([_again_in_backward(part, *piece) for piece in pieces])


def _again_in_backward(part: Callable[..., Tensor], x: Tensor, targets: Tensor) -> Tensor:
    found = checkpoint(part, x, targets, use_reentrant=False, context_fn=again)
    assert isinstance(found, Tensor)
    return found


def _check(x: Tensor, others: Tensor, chunk: int) -> None:
    if x.dim() != 2 or others.shape != x.shape[:1]:
        raise ValueError(f"x is (N, C) and each position has one number, got {tuple(x.shape)}, {tuple(others.shape)}")
    if chunk < 1:
        raise ValueError(f"a chunk is at least one position, not {chunk}")


def _nll(end: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    logits = end(x[None]).squeeze(0)  # indexing would fill a tensor of this size in backward
    found = steps.nll(logits.detach(), targets) if workspace.in_use() else None
    if found is not None:
        return _Nll.apply(logits, targets, *found)
    return F.cross_entropy(logits.float(), targets, reduction="none")  # (n,)


class _Nll(torch.autograd.Function):
    """What `steps.nll` found of logits (n, V): of that size there is nothing but the logits and their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, nll: Tensor, logarithms: Tensor) -> Tensor:
        ctx.save_for_backward(logits, targets, logarithms)
        return nll.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (factors,), (logits, targets, logarithms) = outputs, ctx.saved_tensors
        return steps.nll_backward(logits, targets, logarithms, factors), None, None, None


class _Chunked(torch.autograd.Function):
    """The weighted sum, with its gradients taken chunk by chunk during the forward."""

    @staticmethod
    def forward(
        ctx: Any, end: nn.Module, chunk: int, targets: Tensor, weights: Tensor, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        wanted = ctx.needs_input_grad[4], *ctx.needs_input_grad[5:]
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        ctx.dx = torch.empty_like(x) if wanted[0] else None
        sums = [
            torch.zeros_like(each, dtype=torch.float32) if want else None for each, want in _pair(parameters, wanted)
        ]
        for start in range(0, x.size(0), chunk):
            here = slice(start, start + chunk)
            own = x[here].detach().requires_grad_(wanted[0])
            with torch.set_grad_enabled(any(wanted)):
                loss = (_nll(end, own, targets[here]) * weights[here]).sum()
            total += loss.detach()
            inputs = [own] * wanted[0] + [each for each, want in _pair(parameters, wanted) if want]
            found = list(torch.autograd.grad(loss, inputs)) if inputs else []
            if ctx.dx is not None:
                ctx.dx[here] = found.pop(0)
            for total_of, gradient in zip([each for each in sums if each is not None], found, strict=True):
                total_of += gradient
        ctx.gradients = [None if each is None else each.to(p.dtype) for each, p in zip(sums, parameters, strict=True)]
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (factor,) = outputs
        scaled = [None if each is None else each * factor for each in (ctx.dx, *ctx.gradients)]
        return None, None, None, None, *scaled


def _pair(parameters: tuple[Tensor, ...], wanted: tuple[bool, ...]) -> Any:
    return zip(parameters, wanted[1:], strict=True)
