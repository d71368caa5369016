"""Cross-entropy in chunks is that of all logits at once, gradients too, and never holds those logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from llm_blocks import Head, LayerNorm, RMSNorm, SoftcappedHead
from llm_finetune import linear_cross_entropy, position_nll

N, C, V = 21, 16, 301
ENDS: dict[str, Callable[[], nn.Module]] = {
    "head": lambda: Head(RMSNorm(C, 1e-5), C, V),
    "bias": lambda: Head(LayerNorm(C), C, V, bias=True),
    "softcapped": lambda: SoftcappedHead(RMSNorm(C, 1e-5), C, V, cap=5.0),
}


def _problem(end: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    made = ENDS[end]()
    made.head.weight.data.mul_(8)  # so that the cap bends
    x = torch.randn(N, C, requires_grad=True)
    weights = torch.rand(N) * (torch.arange(N) % 3 > 0)
    return made, x, torch.randint(0, V, (N,)), weights


def _gradients(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("chunk", [1, 8, 300])
def test_chunks_give_the_loss_and_gradients_of_all_logits(end: str, chunk: int) -> None:
    made, x, targets, weights = _problem(end)
    inputs = [x, *made.parameters()]
    whole = (F.cross_entropy(made(x[None])[0], targets, reduction="none") * weights).sum()
    found = linear_cross_entropy(made, x, targets, weights, chunk=chunk)
    assert_close(found, whole, rtol=1e-6, atol=1e-6)
    for mine, wanted in zip(_gradients(found / 7, inputs), _gradients(whole / 7, inputs), strict=True):
        assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("end", ENDS)
def test_the_likelihood_of_each_position_has_the_gradients_of_whole_logits(end: str) -> None:
    made, x, targets, weights = _problem(end)
    inputs = [x, *made.parameters()]
    whole = F.cross_entropy(made(x[None])[0], targets, reduction="none")
    found = position_nll(made, x, targets, chunk=4)
    assert_close(found, whole, rtol=1e-6, atol=1e-6)
    pairs = zip(_gradients((found * weights).sum(), inputs), _gradients((whole * weights).sum(), inputs), strict=True)
    for mine, wanted in pairs:
        assert_close(mine, wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert_close(position_nll(made, x, targets, chunk=4), whole, rtol=1e-6, atol=1e-6)


def test_frozen_parameters_of_the_end_get_no_gradient_and_hidden_states_need_none() -> None:
    made, x, targets, weights = _problem("head")
    made.head.requires_grad_(False)
    linear_cross_entropy(made, x.detach(), targets, weights).backward()
    assert made.head.weight.grad is None
    assert made.norm.weight.grad is not None
    made.requires_grad_(False)
    loss = linear_cross_entropy(made, x, targets, weights)
    loss.backward()
    assert x.grad is not None
    assert bool((x.grad[weights == 0] == 0).all()), "an untrained position has a gradient"
    with torch.no_grad():
        assert_close(linear_cross_entropy(made, x, targets, weights), loss.detach())


def test_without_trained_positions_the_loss_is_0_and_so_are_gradients() -> None:
    made, x, targets, _ = _problem("head")
    loss = linear_cross_entropy(made, x, targets, torch.zeros(N))
    loss.backward()
    assert float(loss.detach()) == 0
    assert x.grad is not None
    assert not x.grad.any()
    assert not made.head.weight.grad.any()


class _Saved:
    """A tensor saved for backward, and how many numbers of logits all that live hold."""

    live = most = 0

    def __init__(self, tensor: Tensor) -> None:
        logits = tensor.shape[-1:] == (V,) and tensor.shape != (C, V)  # which is the head's own matrix
        self.tensor, self.size = tensor, tensor.numel() * logits
        _Saved.live += self.size
        _Saved.most = max(_Saved.most, _Saved.live)

    def __del__(self) -> None:
        _Saved.live -= self.size


@pytest.mark.parametrize("function", [linear_cross_entropy, position_nll])
def test_whole_logits_are_never_kept(function: Any) -> None:
    """What either saves for backward, and what the end makes at once, is that of one chunk."""
    made, x, targets, weights = _problem("head")
    made.requires_grad_(False)
    at_once: list[int] = []
    made.head.register_forward_hook(lambda module, inputs, output: at_once.append(output.numel()))
    extra = (weights,) if function is linear_cross_entropy else ()
    _Saved.most = 0
    with torch.autograd.graph.saved_tensors_hooks(_Saved, lambda saved: saved.tensor):
        loss = function(made, x, targets, *extra, chunk=4).sum()
        loss.backward()
    assert _Saved.most <= 8 * V < N * V / 2
    assert max(at_once) == 4 * V


def test_bf16_hidden_states_get_bf16_gradients_of_an_fp32_loss() -> None:
    made, x, targets, weights = _problem("head")
    made.bfloat16()
    low = x.detach().bfloat16().requires_grad_()
    loss = linear_cross_entropy(made, low, targets, weights, chunk=8)
    loss.backward()
    assert loss.dtype == torch.float32
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shapes", "chunk", "rule"),
    [
        (((4, C), (3,), (4,)), 8, "each position has one number"),
        (((4, C), (4,), (5,)), 8, "each position has one number"),
        (((1, 4, C), (4,), (4,)), 8, "x is \\(N, C\\)"),
        (((4, C), (4,), (4,)), 0, "at least one position, not 0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], chunk: int, rule: str) -> None:
    x, targets, weights = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=rule):
        linear_cross_entropy(ENDS["head"](), x, targets.long(), weights, chunk=chunk)
