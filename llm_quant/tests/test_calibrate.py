"""Calibration of any module: which layers it finds, what each of them sees, and what comes out."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_quant import Hessian, QuantizedLinear, calibrate, clip_int4, gptq, native, quantize, round_int4


class Block(nn.Module):
    """Layers as a transformer has them: some read the same tensor, one runs twice, one not at all."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, 48), nn.Linear(width, 48, bias=False)
        self.back = nn.Linear(48, width)
        self.twice = nn.Linear(width, width)
        self.never = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.back(self.first(y) * torch.sigmoid(self.second(y)))
        return self.twice(torch.tanh(self.twice(x)))


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture
def batches() -> list[Tensor]:
    torch.manual_seed(1)
    mixing = torch.randn(32, 32) * torch.logspace(0, -3, 32)[:, None]  # a few directions carry most
    return [torch.randn(2, 20, 32) @ mixing for _ in range(32)]


def inputs_of(module: nn.Module, name: str, batches: list[Tensor]) -> Tensor:
    """The Hessian of what a layer reads, by a way of its own."""
    found, layer = Hessian(), module.get_submodule(name)
    plain = layer.forward

    def forward(input: Tensor) -> Tensor:
        found.add(input)
        return plain(input)

    layer.forward = forward  # type: ignore[method-assign]
    with torch.no_grad():
        for batch in batches:
            module(batch)
    del layer.forward
    matrix = found.matrix()
    assert matrix is not None
    return matrix


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_each_layer_sees_what_the_quantized_ones_before_it_give(
    block: Block, batches: list[Tensor], method: Any
) -> None:
    by_hand, function = copy.deepcopy(block), gptq if method == "gptq" else clip_int4
    errors = calibrate(block, batches, method=method, group_size=16)
    assert list(errors) == ["first", "second", "back", "twice"]
    for names in (["first", "second"], ["back"], ["twice"]):
        hessian = inputs_of(by_hand, names[0], batches)
        for name in names:
            layer = by_hand.get_submodule(name)
            found, made = function(layer.weight.detach(), hessian, 16), block.get_submodule(name).weight
            for key, tensor in vars(found).items():
                assert torch.equal(getattr(made, key), tensor), (name, key)
            bias = None if layer.bias is None else layer.bias.detach()
            setattr(by_hand, name, QuantizedLinear(found, bias))
    never = block.never.weight
    assert torch.equal(never.value, round_int4(by_hand.never.weight.detach(), 16).value)


def test_the_errors_are_those_of_the_outputs(block: Block, batches: list[Tensor]) -> None:
    weight, x = block.first.weight.detach().clone(), torch.cat([block.norm(batch).detach() for batch in batches])
    errors = calibrate(block, batches, group_size=16)
    wanted = x @ weight.T
    for found, weights in (
        (errors["first"].calibrated, block.first.weight),
        (errors["first"].nearest, round_int4(weight, 16)),
    ):
        off = (x @ weights.dequantize().T - wanted).norm() / wanted.norm()
        assert found == pytest.approx(off.item(), rel=1e-3)
    assert all(error.calibrated < error.nearest for error in errors.values())


def test_new_inputs_gain_too(block: Block, batches: list[Tensor]) -> None:
    plain, nearest = copy.deepcopy(block), quantize(copy.deepcopy(block), "int4", group_size=16)
    calibrate(block, batches[:24], group_size=16)
    with torch.no_grad():
        wanted, *found = (torch.cat([each(x) for x in batches[24:]]) for each in (plain, nearest, block))
    errors = [(each - wanted).norm().item() for each in found]
    assert errors[1] < 0.8 * errors[0]


def test_what_is_left_and_how_it_is_kept(block: Block, batches: list[Tensor]) -> None:
    block.requires_grad_(True)
    errors = calibrate(block, batches, group_size=16, skip=["first", "tw*"], prepare=False)
    assert list(errors) == ["second", "back"]
    assert type(block.first) is type(block.twice) is nn.Linear
    assert isinstance(block.back, QuantizedLinear)
    assert block.back.blocks is None
    assert not block.back.training
    if native.level() is not None:
        torch.manual_seed(0)
        again = Block().eval()
        calibrate(again, batches, group_size=16)
        assert again.back.blocks is not None


def test_hooks_are_gone_and_it_is_the_same_every_time(block: Block, batches: list[Tensor]) -> None:
    other = copy.deepcopy(block)
    calibrate(block, batches, group_size=16)
    calibrate(other, batches, group_size=16)
    with torch.no_grad():
        assert torch.equal(block(batches[0]), other(batches[0]))
    assert not any(module._forward_pre_hooks for module in block.modules())


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"method": "hqq"}, "there is no method 'hqq' of calibration; there are gptq, awq"),
        ({"group_size": 24}, "first has 32 inputs, which are no whole groups of 24"),
        ({"batches": []}, "calibration needs at least one batch"),
        ({"batches": [torch.full((1, 4, 32), 1e30)]}, "first: its inputs hold what is infinite or no number"),
    ],
)
def test_what_is_refused(block: Block, batches: list[Tensor], options: dict[str, Any], rule: str) -> None:
    given = {"batches": batches, "group_size": 16} | options
    with pytest.raises(ValueError, match=rule):
        calibrate(block, given.pop("batches"), **given)
    assert not any(module._forward_pre_hooks for module in block.modules())
