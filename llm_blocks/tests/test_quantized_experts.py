"""Experts that a folder stores as whole numbers, one by one: all of them, some of them, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_blocks
from llm_blocks import Experts, QuantizedExperts
from llm_blocks.testing import nearest, rewrite, store_rounded, words
from llm_quant import QuantizedLinear, round_int4
from llm_quant.formats import CompressedTensors
from llm_quant.stacks import SideBySide
from llm_sepweight import WeightsError

INT4 = CompressedTensors(bits=4, group_size=4, symmetric=False)
INT8 = CompressedTensors(bits=8, group_size=None, symmetric=True)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True}
IDS = torch.tensor([[1, 5, 22, 7]])
EXPERTS = [f"layers.{i}.e.{e}.{name}" for i in range(3) for e in range(2) for name in ("gate", "up", "down")]

Change = Callable[[dict[str, Tensor]], Any]


def packed(folder: Path, form: CompressedTensors, layers: list[str] = EXPERTS) -> Path:
    return store_rounded(folder, form, layers)


def round_in_place(model: Any, form: CompressedTensors, layers: list[str] = EXPERTS) -> Any:
    """The model with the numbers that those matrices stand for."""
    for block in range(3):
        for parts in model.mid[str(block)].experts.pieces().values():
            for name, view in parts:
                if f"layers.{block}.e.{name.removesuffix('.weight')}" in layers:
                    view.copy_(nearest(view, form).dequantize())
    return model


@pytest.fixture
def model(mixture: ModuleType) -> Any:
    return llm_blocks.new_model(mixture.Config(), std=0.3, seed=2).eval()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    llm_blocks.save(model, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("form", [INT4, INT8], ids=str)
@torch.no_grad()
def test_all_experts(folder: Path, model: Any, form: CompressedTensors) -> None:
    loaded = llm_blocks.load(packed(folder, form))
    experts = loaded.mid["2"].experts
    assert isinstance(experts, QuantizedExperts)
    assert all(isinstance(layer, QuantizedLinear) for layer in (*experts.gate_up.layers, *experts.down.layers))
    assert not any(module.training for module in loaded.modules())
    torch.testing.assert_close(loaded(IDS), round_in_place(model, form)(IDS), rtol=1e-3, atol=1e-3)
    first, last = (llm_blocks.load(folder, part) for part in ("b 0-2", "2-3 e"))
    assert torch.equal(last(first(IDS)), loaded(IDS))


@pytest.mark.parametrize("kept", ["down", "up", "1.e.0.gate"])
@torch.no_grad()
def test_some_may_be_left_as_they_are(folder: Path, model: Any, kept: str) -> None:
    layers = [name for name in EXPERTS if not name.endswith(kept)]
    loaded = llm_blocks.load(packed(folder, INT8, layers))
    experts = loaded.mid["1"].experts
    assert isinstance(experts, QuantizedExperts)
    kinds = {type(layer) for stack in (experts.gate_up, experts.down) for layer in stack.layers}
    assert kinds == {QuantizedLinear, nn.Linear if kept == "down" else SideBySide}
    wanted = round_in_place(model, INT8, layers)(IDS)
    torch.testing.assert_close(loaded(IDS), wanted, rtol=1e-3, atol=1e-3)
    assert llm_blocks.load(folder, dtype=torch.bfloat16)(IDS).dtype == torch.bfloat16


def test_experts_of_a_layer_without_any_quantized_stay_stacked(folder: Path) -> None:
    loaded = llm_blocks.load(packed(folder, INT8, [name for name in EXPERTS if not name.startswith("layers.0")]))
    assert isinstance(loaded.mid["0"].experts, Experts)
    assert isinstance(loaded.mid["1"].experts, QuantizedExperts)


@pytest.mark.parametrize("orders", ["one", "each its own"])
@torch.no_grad()
def test_gptq_with_groups_in_any_order(folder: Path, model: Any, orders: str) -> None:
    """As AutoGPTQ writes experts; those of one expert have the same inputs, and mostly the same order of them."""
    torch.manual_seed(0)
    weights: dict[str, Tensor] = {}
    order = {16: torch.arange(16)[torch.randperm(16)] // 8, 8: torch.zeros(8).long()}

    def as_gptq(tensors: dict[str, Tensor]) -> None:
        for layer in EXPERTS:
            n, k = tensors.pop(f"{layer}.weight").shape
            groups = order[k] if orders == "one" else (torch.arange(k) // 8)[torch.randperm(k)]
            value, zero = torch.randint(0, 16, (n, k)), torch.randint(1, 16, (n, k // 8))
            scale = (torch.rand(n, k // 8) / 20).half()
            weights[layer] = scale.float()[:, groups] * (value - zero[:, groups])
            tensors |= {
                f"{layer}.qweight": words(value).t(),
                f"{layer}.qzeros": words(zero.t() - 1),
                f"{layer}.scales": scale.t(),
                f"{layer}.g_idx": groups.int(),
                f"{layer}.bias": torch.zeros(n),  # AutoGPTQ gives each layer one
            }

    loaded = llm_blocks.load(rewrite(folder, as_gptq, quantization_config=GPTQ))
    kinds = {type(layer) for layer in loaded.mid["0"].experts.gate_up.layers}
    assert kinds == {QuantizedLinear if orders == "one" else SideBySide}
    for block in range(3):
        for parts in model.mid[str(block)].experts.pieces().values():
            for name, view in parts:
                view.copy_(weights[f"layers.{block}.e.{name.removesuffix('.weight')}"])
    torch.testing.assert_close(loaded(IDS), model(IDS), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_router_that_somebody_has_rounded_is_read_as_its_numbers(
    mixture: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Block(mixture.Block):
        def __init__(self, c: Any, layer: int) -> None:
            super().__init__(c, layer)
            self.q = llm_blocks.RouterLinear(c.dim, c.dim, bias=False)

    monkeypatch.setattr(mixture, "Block", Block)
    model = llm_blocks.new_model(mixture.Config(), std=0.3, seed=2)
    llm_blocks.save(model, tmp_path / "saved")
    loaded = llm_blocks.load(packed(tmp_path / "saved", INT4, ["layers.1.query"]), dtype=torch.bfloat16)
    router = loaded.mid["1"].q
    assert type(router) is llm_blocks.RouterLinear
    wanted = round_int4(model.mid["1"].q.weight, 4).dequantize(torch.bfloat16)
    assert torch.equal(router.weight, wanted)
    assert not router.weight.requires_grad


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda t: t.pop("layers.1.e.0.up.weight_scale"),
            r"layers\.1\.e\.0\.up\.weight_packed .*: lacks its weight_sc",
        ),
        (lambda t: t.pop("layers.1.e.0.up.weight_packed"), r"lacks layers\.1\.e\.0\.up\.weight .*the model has"),
        (
            lambda t: t.update({"layers.1.e.2.up.weight_packed": t["layers.1.e.1.up.weight_packed"].clone()}),
            r"layers\.1\.e\.2\.up\.weight_packed .*: config\.json says the model hasn't this layer",
        ),
        (
            lambda t: t.update({"layers.1.e.1.up.weight": torch.zeros(8, 16)}),
            r"holds layers\.1\.e\.1\.up\.weight .* the model hasn't",
        ),
        (
            lambda t: t.update({"layers.1.e.1.up.weight_packed": torch.zeros(8, 3, dtype=torch.int32)}),
            r"layers\.1\.e\.1\.up\.weight_packed .* has shape \(8, 3\)",
        ),
        (lambda t: t.update({"layers.1.e.gate_up": torch.zeros(2, 16, 16)}), r"holds layers\.1\.e\.gate_up"),
    ],
    ids=["a tensor", "a matrix", "an expert too many", "twice", "shape", "stacked too"],
)
def test_damaged_folders_are_refused(folder: Path, change: Change, rule: str) -> None:
    rewrite(packed(folder, INT4), change)
    with pytest.raises(WeightsError, match=rule):
        llm_blocks.load(folder)


def test_more_experts_than_tensors_are_refused_before_they_are_made(
    mixture: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed(folder, INT8)

    class Block(mixture.Block):
        def __init__(self, c: Any, layer: int) -> None:
            super().__init__(c, layer)
            self.experts = Experts(2**14, c.dim, 4)

    monkeypatch.setattr(mixture, "Block", Block)
    monkeypatch.setattr("llm_blocks.quantized.OneByOne", lambda _: pytest.fail("places were made"))
    with pytest.raises(WeightsError, match="too few for the 147456 of experts alone"):
        llm_blocks.load(folder)
