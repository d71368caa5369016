"""The small steps against torch's operators in float64, on every level that the processor has."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from llm_quant import native, steps

DTYPES = [torch.float32, torch.bfloat16]


def plain_norm(x: Tensor, weight: Tensor, *, offset: bool) -> Tensor:
    scaled = F.rms_norm(x.double(), (x.size(-1),), None, 1e-5)
    if offset:
        return scaled * (1 + weight.double())
    return scaled.to(x.dtype).double() * weight.double()


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 64, 2048])
def test_rms_norm(level: str, dtype: torch.dtype, width: int, offset: bool) -> None:
    torch.manual_seed(width)
    x, weight = (50 * torch.randn(2, 3, width)).to(dtype), torch.randn(width).to(dtype)
    x[0, 1] = 0
    found = steps.rms_norm(x, weight, 1e-5, offset=offset)
    assert found is not None
    assert found.dtype == dtype
    wanted = plain_norm(x, weight, offset=offset)
    step = 2**-8 if dtype == torch.bfloat16 else 2**-20
    # in bf16 a number halfway between two may be rounded to either on the way
    assert_close(found.double(), wanted, rtol=2 * step, atol=1e-6)
    assert ((found.double() - wanted).abs() <= 1.01 * step * wanted.abs() + 1e-6).float().mean() > 0.99


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_gate(level: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0.0, -0.0, 200.0, -200.0, 88.5, -88.5, 1e-30])
    gate, up = torch.cat((10 * torch.randn(5000), ends)).to(dtype), torch.randn(5007).to(dtype)
    found = steps.silu_gate(gate, up)
    assert found is not None
    wanted = F.silu(gate.double()).to(dtype).double() * up.double()
    step = 2**-8 if dtype == torch.bfloat16 else 2**-20
    assert_close(found.double(), wanted, rtol=2 * step, atol=1e-30)


def test_what_is_no_number_stays_so(level: str) -> None:
    bad = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    one = torch.ones(4)
    assert_close(steps.silu_gate(bad, one), F.silu(bad), equal_nan=True)
    assert_close(steps.silu_gate(bad.bfloat16(), one.bfloat16()), F.silu(bad.bfloat16()), equal_nan=True)
    assert steps.rms_norm(bad[None], one, 1e-5).isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_among_many(level: str, dtype: torch.dtype) -> None:
    """Beyond some number of them rows are shared out between threads."""
    torch.manual_seed(1)
    x, weight = torch.randn(2000, 64).to(dtype), torch.randn(64).to(dtype)
    for step in (
        lambda x: steps.rms_norm(x, weight, 1e-5),
        lambda x: steps.layer_norm(x, weight, None, 1e-5),
        lambda x: steps.gelu(x, tanh=True),
        lambda x: steps.gelu(x, tanh=False),
    ):
        many, few = step(x), step(x[1000:1003])
        assert many is not None
        assert few is not None
        assert torch.equal(many[1000:1003], few)


def test_what_torch_has_to_do() -> None:
    x, weight = torch.randn(3, 64), torch.randn(64)
    assert steps.rms_norm(x, weight.bfloat16(), 1e-5) is None
    assert steps.rms_norm(x.double(), weight.double(), 1e-5) is None
    assert steps.rms_norm(x.t(), torch.randn(3), 1e-5) is None
    assert steps.rms_norm(x.requires_grad_(), weight, 1e-5) is None
    assert steps.rms_norm(torch.randn(2**17 + 1, 64), weight, 1e-5) is None
    with torch.no_grad():
        assert (steps.rms_norm(x, weight, 1e-5) is None) == (native.level() is None)
    assert steps.silu_gate(torch.randn(3), torch.randn(1)) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 64, 768])
def test_norm_backward(level: str, dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(width)
    x, weight, d = torch.randn(5, 3, width).to(dtype), torch.randn(width).to(dtype), torch.randn(5, 3, width).to(dtype)
    found = steps.norm_backward(x, weight, d, 1e-5)
    assert found is not None
    wide = x.double().requires_grad_()
    (F.rms_norm(wide, (width,), None, 1e-5) * weight.double()).backward(d.double())
    assert wide.grad is not None
    step = 2**-8 if dtype == torch.bfloat16 else 2**-20
    # the two terms of the gradient may cancel: what counts is their size
    terms = d.double() * weight.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 1e-5)
    assert_close(found.double(), wide.grad, rtol=step, atol=step * float(terms.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_backward(level: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0.0, -0.0, 200.0, -200.0, 88.5, -88.5, 1e-30])
    gate = torch.cat((10 * torch.randn(9000), ends)).to(dtype)
    up, d = torch.randn(9007).to(dtype), torch.randn(9007).to(dtype)
    found = steps.gated_backward(gate, up, d)
    assert found is not None
    inputs = [each.double().requires_grad_() for each in (gate, up)]
    (F.silu(inputs[0]) * inputs[1]).backward(d.double())
    step = 2**-8 if dtype == torch.bfloat16 else 2**-19
    for one, other in zip(found, inputs, strict=True):
        assert other.grad is not None
        assert_close(one.double(), other.grad, rtol=step, atol=step * 1e-2)


def test_gradients_are_left_to_torch_where_the_kernels_do_not_serve(level: str) -> None:
    x = torch.randn(4, 64, dtype=torch.float64)
    assert steps.norm_backward(x, x[0], x, 1e-5) is None
    assert steps.gated_backward(x, x, x) is None
    apart = torch.randn(64, 4).t()
    assert steps.norm_backward(apart, apart[0].contiguous(), apart, 1e-5) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 15, 64, 3001])
def test_nll_and_its_gradient(level: str, dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(width)
    logits, targets = (8 * torch.randn(9, width)).to(dtype), torch.randint(0, width, (9,))
    logits[0, targets[0]] = 60.0
    found = steps.nll(logits, targets)
    assert found is not None
    wide = logits.double().requires_grad_()
    wanted = F.cross_entropy(wide, targets, reduction="none")
    factors = torch.randn(9)
    wanted.backward(factors.double())
    assert wide.grad is not None
    assert_close(found[0].double(), wanted.detach(), rtol=1e-5, atol=1e-5)
    assert_close(found[1].double(), torch.logsumexp(wide.detach(), -1), rtol=1e-6, atol=1e-5)
    d = steps.nll_backward(logits, targets, found[1], factors)
    step = 2**-8 if dtype == torch.bfloat16 else 2**-15
    assert_close(d.double(), wide.grad, rtol=step, atol=1e-6)


def test_nll_of_no_number_is_none_and_targets_that_are_no_tokens_are_left_to_torch(level: str) -> None:
    logits = torch.randn(3, 40)
    logits[1, 5] = float("nan")
    found = steps.nll(logits, torch.tensor([1, 2, 3]))
    assert found is not None
    assert found[0].isnan().tolist() == [False, True, False]
    for wrong in (torch.tensor([0, 40, 1]), torch.tensor([0, -1, 1]), torch.tensor([0, 1])):
        assert steps.nll(logits, wrong) is None
