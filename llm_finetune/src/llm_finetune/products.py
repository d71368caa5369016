"""Products with frozen weights, and sums, whose results lie in the workspace of a training step.

`lean()` has each product of a frozen weight, and each sum of two results, come out of it, whatever module asks for
them: models are not changed. Shapes: M rows, N outputs, K inputs, r rank.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from llm_quant import workspace
from llm_quant.memory import give_back

_ADD = (torch.Tensor.__add__, torch.Tensor.add, torch.add)


@contextmanager
def lean() -> Iterator[None]:
    """A block in which training on the CPU makes its large tensors in one workspace (`llm_quant.workspace`).

    What is computed stays the same. Other devices, and what torch.compile makes, are left as they are.
    """
    give_back()  # what loading has left
    with workspace.using(), _Lean():
        yield


def again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """For `torch.utils.checkpoint`: what surrounds a forward, and the same one when backward computes it again.

    While a mode passes `backward` on it is switched off, and the second forward has to be that of the first.
    """
    return nullcontext(), _Lean() if workspace.in_use() else nullcontext()


class _Lean(TorchFunctionMode):
    """Has products of frozen weights and sums of equal shapes done by the functions below."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if kwargs or not workspace.in_use() or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        if func is F.linear and _is_frozen(*args):
            return Product.apply(*args)
        if func in _ADD and _is_sum(*args):
            return Sum.apply(*args)
        return func(*args)


def serves(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a product of x and a frozen weight, both on the CPU and of one type, is made in the workspace."""
    return workspace.in_use() and torch.is_grad_enabled() and _is_frozen(x, weight, bias)


class Product(torch.autograd.Function):
    """x (..., K) times the transpose of a frozen weight (N, K), plus a frozen bias (N,): (..., N). x isn't kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(weight)
        return _times(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dy,), (weight,) = outputs, ctx.saved_tensors
        return _times(dy, weight.t(), None), None, None


class LowRankProduct(torch.autograd.Function):
    """A frozen layer's product with x (..., K) plus scale B A given, for A (r, K) and B (N, r) fp32: (..., N).

    `given` is x, or x after dropout. What B A adds is added in place, in either direction.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, given: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        y, rows = _times(x, weight, bias), given.reshape(-1, given.size(-1))
        low = rows @ a.t().to(x.dtype)  # (M, r)
        y.view(-1, y.size(-1)).addmm_(low, b.t().to(x.dtype), alpha=scale)
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scale, ctx.same = scale, given is x
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (dy,), (rows, weight, a, b, low) = outputs, ctx.saved_tensors
        d = dy.reshape(-1, dy.size(-1))
        dlow = torch.mm(d, b.to(d.dtype)).mul_(ctx.scale)  # (M, r)
        db = torch.mm(d.t(), low).to(b.dtype).mul_(ctx.scale)
        da = torch.mm(dlow.t(), rows).to(a.dtype)
        dx = _times(dy, weight.t(), None) if ctx.needs_input_grad[0] else None
        dgiven = None
        if ctx.same and dx is not None:
            dx.view(-1, dx.size(-1)).addmm_(dlow, a.to(d.dtype))
        elif ctx.needs_input_grad[1]:
            dgiven = torch.mm(dlow, a.to(d.dtype)).view(*dy.shape[:-1], a.size(1))
        return dx, dgiven, None, None, da, db, None


class Sum(torch.autograd.Function):
    """x + y of one shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x, y, out=workspace.empty(x.shape, x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (d,) = outputs
        return d, d


def _times(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., K) times the transpose of weight (N, K), plus bias."""
    rows = x.reshape(-1, x.size(-1))
    if x.dtype == torch.float32 and _has_onednn():
        y = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return y.view(*x.shape[:-1], weight.size(0))
    y = workspace.empty((rows.size(0), weight.size(0)), x.dtype)
    if bias is None:
        torch.mm(rows, weight.t(), out=y)
    else:
        torch.addmm(bias, rows, weight.t(), out=y)
    return y.view(*x.shape[:-1], weight.size(0))


@cache
def _has_onednn() -> bool:
    """Whether fp32 products are oneDNN's: torch takes MKL's, which leave half of AVX-512 unused on AMD's processors.

    Measured on an EPYC of 2 cores: 480 to 510 GFLOP/s against 220 to 235.
    """
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _is_frozen(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    fixed = [weight] if bias is None else [weight, bias]
    return (
        x.dtype == weight.dtype
        and x.is_floating_point()
        and not any(each.requires_grad for each in fixed)
        and all(each.device.type == "cpu" for each in (x, weight))
        and not torch.is_autocast_enabled("cpu")
    )


def _is_sum(x: Any, y: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and x.shape == y.shape
        and x.dtype == y.dtype
        and x.device.type == y.device.type == "cpu"
        and x.nbytes >= workspace.SMALLEST
        and x.is_floating_point()
        and x.is_contiguous()
        and y.is_contiguous()  # else the sum keeps the strides that both have
    )
