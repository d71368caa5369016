"""Stacks of matrices: each group of rows times its own, by the same kernels as a single layer; and planned rounding."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_quant
from llm_quant import QuantizedLinear, QuantizedStack, native, quantize, round_int4, round_int8, side_by_side
from llm_quant.canonical import Int4

ENDS = [0, 3, 3, 5, 24, 24]  # rows of six matrices: none, 3, none, 2, 19, none


class Mixture(llm_quant.Stacked):
    """Six matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(6, 40, 32))

    def stacks(self) -> dict[str, Tensor]:
        return {"stack": self.stack}

    def with_stacks(self, stacks: Mapping[str, QuantizedStack]) -> nn.Module:
        return stacks["stack"]


class Flipped(llm_quant.LinearLike):
    """A linear layer whose weight is (K, N)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(32, 48)), nn.Parameter(torch.randn(48))

    def matrix(self) -> Tensor:
        return self.weight.T

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Own(nn.Linear):
    """A linear layer that somebody needs as it is."""


def by_loop(x: Tensor, stack: Tensor) -> Tensor:
    return torch.cat(
        [part.double() @ matrix.double().T for part, matrix in zip(x.tensor_split(ENDS[:-1]), stack, strict=True)]
    )


@pytest.fixture(params=["int8", "int4"])
def scheme(request: pytest.FixtureRequest) -> llm_quant.Scheme:
    return request.param


def test_each_group_of_rows_has_its_own_matrix(scheme: llm_quant.Scheme) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Mixture())
    exact = torch.stack(
        [
            (round_int8(each) if scheme == "int8" else round_int4(each, 16)).dequantize()
            for each in model[0].stack.detach()
        ]
    )
    stack: Any = quantize(model, scheme, group_size=16)[0]
    assert isinstance(stack, QuantizedStack)
    x = torch.randn(24, 32)
    wanted = by_loop(x, exact)
    with torch.no_grad():
        for layout in ("prepared", "canonical"):
            torch.testing.assert_close(stack(x, ENDS).double(), wanted, rtol=1e-4, atol=1e-3, msg=layout)
            for layer in stack.layers:
                layer.unprepare()
        half = stack(x.bfloat16(), ENDS)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.double(), wanted, rtol=0.05, atol=0.3)
        assert stack(x[:0], [0] * 6).shape == (0, 40)


@pytest.mark.skipif(native.level() is None, reason=f"no kernels: {native.reason()}")
def test_few_rows_read_the_weights_as_they_are(scheme: llm_quant.Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token's experts are multiplied by the kernel for few rows, one call for each that is used, none expanded."""
    stack: Any = quantize(nn.Sequential(Mixture()), scheme, group_size=16)[0]
    calls: list[int] = []
    linear = native.linear
    monkeypatch.setattr(
        native, "linear", lambda x, *args, **options: calls.append(len(x)) or linear(x, *args, **options)
    )
    monkeypatch.setattr(native, "expand", lambda *_, **__: pytest.fail("a weight was expanded"))
    with torch.no_grad():
        stack(torch.randn(5, 32), [0, 3, 3, 5, 5, 5])
    assert calls == [3, 2]


def test_gradients_reach_the_rows(scheme: llm_quant.Scheme) -> None:
    torch.manual_seed(0)
    stack: Any = quantize(nn.Sequential(Mixture()), scheme, group_size=16)[0]
    x = torch.randn(24, 32, requires_grad=True)
    found = torch.autograd.grad(stack(x, ENDS).square().sum(), x)[0]
    exact = torch.stack([layer.weight.dequantize() for layer in stack.layers]).double()
    again = x.detach().double().requires_grad_()
    wanted = torch.autograd.grad(by_loop_with_grad(again, exact).square().sum(), again)[0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=0.05)


def by_loop_with_grad(x: Tensor, stack: Tensor) -> Tensor:
    return torch.cat([part @ matrix.T for part, matrix in zip(x.tensor_split(ENDS[:-1]), stack, strict=True)])


def test_layers_side_by_side_are_one_where_they_can_be() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(16, 32), torch.randn(24, 32)
    x = torch.randn(3, 32)

    def layer(weight: llm_quant.Int8 | Int4, order: Tensor | None = None) -> QuantizedLinear:
        return QuantizedLinear(weight, order=order)

    backwards, same = torch.arange(32).flip(0), torch.arange(32).flip(0)
    pairs = [
        (layer(round_int8(a)), layer(round_int8(b)), True),
        (layer(round_int4(a, 16)), layer(round_int4(b, 16)), True),
        (layer(round_int4(a, 16), backwards), layer(round_int4(b, 16), same), True),
        (layer(round_int4(a, 16), backwards), layer(round_int4(b, 16)), False),
        (layer(round_int4(a, 16)), layer(round_int4(b, 8)), False),
        (layer(round_int4(a, 16)), layer(round_int4(b, 16, dtype=torch.float16)), False),
        (layer(round_int4(a, 16)), layer(round_int8(b)), False),
        (layer(round_int4(a, 16)), nn.Linear(32, 24, bias=False), False),
    ]
    for first, second, one in pairs:
        both = side_by_side(first, second)
        assert isinstance(both, QuantizedLinear) == one
        with torch.no_grad():
            wanted = torch.cat((first(x), second(x)), dim=-1)
            torch.testing.assert_close(both(x), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_a_target_and_what_isn_t() -> None:
    model = nn.ModuleDict({"plain": nn.Linear(32, 8), "own": Own(32, 8), "flipped": Flipped(), "mixture": Mixture()})
    assert set(llm_quant.targets(model)) == {"plain", "flipped", "mixture"}
    assert llm_quant.targets(nn.Linear(4, 4)) == {}


def test_a_layer_that_is_like_a_linear_one_is_replaced(scheme: llm_quant.Scheme) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Flipped(), Own(48, 16))
    with torch.no_grad():
        x = torch.randn(5, 32)
        wanted = model[0](x)
        quantize(model, scheme, group_size=16)
        error = (model[0](x) - wanted).norm() / wanted.norm()
    assert isinstance(model[0], QuantizedLinear)
    assert type(model[1]) is Own
    assert model[0].bias is not None
    assert 2**-12 < error < (2**-6 if scheme == "int8" else 2**-3)


def test_a_plan_is_made_without_weights_and_done_layer_by_layer(scheme: llm_quant.Scheme) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 16, bias=False))

    with torch.device("meta"):
        empty = build()
    makers = llm_quant.plan(empty, scheme, group_size=16, skip=["1"])
    assert list(makers) == ["0"]
    torch.manual_seed(0)
    model = build().bfloat16()
    one: Any = makers["0"](model[0])
    other: Any = quantize(model, scheme, group_size=16)[0]
    for name in ("value", "scale", "bias"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    with pytest.raises(ValueError, match="0 has no weights yet"):
        quantize(empty, scheme, group_size=16)


def test_a_stack_whose_inputs_are_no_whole_groups_is_refused_before_anything_is_rounded() -> None:
    model = nn.Sequential(nn.Linear(24, 24), Mixture())
    with pytest.raises(ValueError, match="1 has 32 inputs, which are no whole groups of 24"):
        quantize(model, "int4", group_size=24)
    assert type(model[0]) is nn.Linear


@pytest.mark.skipif(native.level() != "avx512", reason="torch's own product is as fast without AVX-512")
def test_a_model_that_reads_bf16_by_the_kernels_can_still_be_rounded() -> None:
    """`quantize` passed over the layers that `accelerate` had made, and rounded nothing."""
    model = nn.Sequential(nn.Linear(32, 32)).bfloat16()
    assert type(llm_quant.accelerate(model)[0]) is llm_quant.KernelLinear
    assert isinstance(quantize(model, "int8")[0], QuantizedLinear)
