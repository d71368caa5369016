"""Steps whose gradients are one function, against what autograd makes of torch's operators."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

import llm_quant
from llm_blocks import RMSNorm, RopeTable, rotate, silu_gate, training
from llm_quant import workspace

Function = Callable[..., Tensor]


def gradients(function: Function, inputs: Sequence[Tensor], d: Tensor) -> list[Tensor]:
    own = [each.detach().clone().requires_grad_() for each in inputs]
    y = function(*own)
    return [y.detach(), *torch.autograd.grad(y, own, d.to(y.dtype))]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    layer = RMSNorm(weight.numel(), 1e-5)
    return torch.func.functional_call(layer, {"weight": weight}, (x,))


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), None, 1e-5) * weight


def plain_rotate(x: Tensor, table: RopeTable) -> Tensor:
    cos, sin = table
    turning = cos.size(-1)
    head = x[..., :turning]
    return torch.cat((head * cos + head.roll(turning // 2, -1) * sin, x[..., turning:]), dim=-1)


@pytest.fixture(params=["kernels", "torch"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(llm_quant.native, "level", lambda: None)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("used", [False, True])
def test_norm(used: bool) -> None:
    torch.manual_seed(0)
    inputs, d = (torch.randn(300, 256), torch.randn(256)), torch.randn(300, 256)
    wanted = gradients(plain_norm, inputs, d)
    with workspace.using() if used else torch.enable_grad():
        assert_close(gradients(norm, inputs, d), wanted, rtol=1e-5, atol=1e-5)
        alone = gradients(lambda x: norm(x, inputs[1]), inputs[:1], d)  # the weight is frozen
    assert_close(alone, wanted[:2], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("turning", [16, 8])
def test_rotate(turning: int, rows: int) -> None:
    torch.manual_seed(0)
    x, d = torch.randn(2, 7, 3, 16).transpose(1, 2), torch.randn(2, 3, 7, 16)
    angles = torch.randn(rows, 1, 7, turning // 2)
    cos, sin = torch.cat((angles.cos(),) * 2, dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)
    wanted = gradients(lambda x: plain_rotate(x, (cos, sin)), [x], d)
    with workspace.using():
        assert_close(gradients(lambda x: rotate(x, (cos, sin)), [x], d), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("used", [False, True])
def test_silu_gate(used: bool) -> None:
    torch.manual_seed(0)
    inputs, d = (4 * torch.randn(300, 256), torch.randn(300, 256)), torch.randn(300, 256)
    wanted = gradients(lambda gate, up: F.silu(gate) * up, inputs, d)
    with workspace.using() if used else torch.enable_grad():
        assert_close(gradients(silu_gate, inputs, d), wanted, rtol=1e-5, atol=1e-5)


def test_second_gradients_are_refused_and_never_wrong() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    with workspace.using():
        (first,) = torch.autograd.grad(silu_gate(x, x * 1).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="does not require grad"):
            first.sum().backward()


def test_without_a_workspace_torch_differentiates_twice_and_by_its_transforms() -> None:
    layer, x = RMSNorm(8, 1e-5), torch.randn(4, 8)
    torch.nn.init.ones_(layer.weight)
    wanted = torch.func.jacrev(lambda x: plain_norm(x, layer.weight.detach()))(x)
    assert_close(torch.func.jacrev(layer)(x), wanted, rtol=1e-5, atol=1e-5)
    own = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(silu_gate(own, own * 1)).sum(), own, create_graph=True)
    first.square().sum().backward()
    assert own.grad is not None


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("shape", [(512,), (300, 1)])
def test_an_up_that_is_broadcast(shape: tuple[int, ...]) -> None:
    """The kernel read past its end, and the gradient of gate was whatever lay there."""
    torch.manual_seed(0)
    inputs, d = (torch.randn(300, 512), torch.randn(shape)), torch.randn(300, 512)
    wanted = gradients(lambda gate, up: F.silu(gate) * up, inputs, d)
    with workspace.using():
        assert_close(gradients(silu_gate, inputs, d), wanted, rtol=1e-5, atol=1e-5)


def test_other_types_and_autocast_are_left_to_torch() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    assert not training.applies(x, x)
    with workspace.using():
        assert training.applies(x, x)
        assert not training.applies(x, x.bfloat16())
        with torch.no_grad():
            assert not training.applies(x, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not training.applies(x, x)
