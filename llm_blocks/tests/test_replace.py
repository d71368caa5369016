"""Layers that are replaced while a model is read: the same numbers as afterwards, and one layer at a time."""

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import llm_blocks
import llm_quant
from llm_quant import QuantizedLinear
from llm_quant.formats import CompressedTensors
from llm_sepweight import WeightsError

IDS = torch.tensor([[1, 5, 22, 7]])


def int8(model: nn.Module) -> Mapping[str, llm_quant.Maker]:
    return llm_quant.plan(model, "int8")


def same(one: Any, other: Any) -> None:
    wanted = other.state_dict()
    found = one.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_while_read_is_rounded_afterwards(
    toy: Any, tmp_path: Path, scheme: llm_quant.Scheme, tied: bool, dtype: torch.dtype
) -> None:
    model = llm_blocks.new_model(toy.Config(tie_embeddings=tied), std=0.3, seed=3, dtype=dtype)
    llm_blocks.save(model, tmp_path / "saved")
    afterwards = llm_quant.quantize(llm_blocks.load(tmp_path / "saved"), scheme, group_size=8)
    while_read = llm_blocks.load(tmp_path / "saved", replace=lambda m: llm_quant.plan(m, scheme, group_size=8))
    same(while_read, afterwards)
    assert isinstance(while_read.mid["1"].kv, QuantizedLinear)
    assert not any(module.training for module in while_read.modules())
    random = llm_blocks.new_model(
        model.config, std=0.3, seed=3, dtype=dtype, replace=lambda m: llm_quant.plan(m, scheme, group_size=8)
    )
    same(random, llm_quant.quantize(model, scheme, group_size=8))
    with torch.no_grad():
        assert torch.equal(while_read(IDS), random.eval()(IDS))


def test_rounding_is_from_the_numbers_of_the_file(toy: Any, tmp_path: Path) -> None:
    """Matrices as the file has them, whatever the model computes in; all else in what it computes in."""
    model = llm_blocks.new_model(toy.Config(), std=0.3, seed=3, dtype=torch.float16)
    llm_blocks.save(model, tmp_path / "saved")
    loaded = llm_blocks.load(tmp_path / "saved", dtype=torch.bfloat16, replace=int8)
    wanted = llm_quant.round_int8(model.mid["0"].kv.weight.detach())
    assert torch.equal(loaded.mid["0"].kv.weight.value, wanted.value)
    assert torch.equal(loaded.mid["0"].kv.weight.scale, wanted.scale)
    assert torch.equal(loaded.mid["0"].kv.bias, model.mid["0"].kv.bias.bfloat16().float())
    assert loaded.begin.embed.weight.dtype == torch.bfloat16


def test_a_layer_has_let_go_of_its_weight_before_the_next_is_read(folder: Path) -> None:
    """And its weight is in memory of its own, for the pages of a mapped file would stay."""
    alive: list[weakref.ref[Any]] = []
    order: list[str] = []

    def watched(model: nn.Module) -> dict[str, llm_quant.Maker]:
        def make(name: str, layer: nn.Module) -> nn.Module:
            gc.collect()
            assert not [each for each in alive if each() is not None], f"a layer before {name} is still there"
            weight = layer.get_parameter("weight")
            assert weight.untyped_storage().nbytes() == weight.nbytes
            alive.append(weakref.ref(layer))
            order.append(name)
            return int8_of(layer)

        int8_of = next(iter(int8(model).values()))
        return {name: lambda layer, name=name: make(name, layer) for name in int8(model)}

    llm_blocks.load(folder, replace=watched)
    assert order == ["mid.0.q", "mid.0.kv", "mid.1.q", "mid.1.kv", "mid.2.q", "mid.2.kv", "end.head"]


def test_parts_are_replaced_as_the_whole_is(folder: Path) -> None:
    whole = llm_blocks.load(folder, replace=int8)
    first, second = (llm_blocks.load(folder, part, replace=int8) for part in ("b 0-1", "1-3 e"))
    with torch.no_grad():
        assert torch.equal(second(first(IDS)), whole(IDS))


def test_everything_is_checked_before_anything_is_planned_or_read(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["layers.2.query.weight"] = tensors["layers.2.query.weight"][:3].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"query\.weight .* has shape \(3, 16\)"):
        llm_blocks.load(folder, replace=lambda _: pytest.fail("layers were planned"))


def test_layers_that_are_quantized_already_are_not_replaced(folder: Path) -> None:
    form = CompressedTensors(bits=8, group_size=None, symmetric=True)
    raw = llm_blocks.read_config(folder) | {"quantization_config": form.to_hf([])}
    llm_blocks.saving.write_json(folder / "config.json", raw)
    with pytest.raises(ValueError, match="its weights are quantized, so no layer of it is replaced"):
        llm_blocks.load(folder, replace=int8)


def test_experts_in_pieces_and_stacked(mixture: ModuleType, tmp_path: Path) -> None:
    model = llm_blocks.new_model(mixture.Config(), std=0.3, seed=1, dtype=torch.float16)
    llm_blocks.save(model, tmp_path / "pieces")
    tensors = load_file(tmp_path / "pieces" / "model.safetensors")
    stacked = {name: tensor for name, tensor in tensors.items() if ".e." not in name}
    for layer in range(3):
        for name in ("gate_up", "down"):
            stacked[f"layers.{layer}.e.{name}"] = getattr(model.mid[str(layer)].experts, name).detach()
    (tmp_path / "stacked").mkdir()
    (tmp_path / "stacked" / "config.json").write_text((tmp_path / "pieces" / "config.json").read_text())
    save_file(stacked, tmp_path / "stacked" / "model.safetensors")
    wanted = llm_quant.quantize(model, "int8").state_dict()
    for folder in ("pieces", "stacked"):
        found = llm_blocks.load(tmp_path / folder, dtype=torch.float16, replace=int8)
        assert isinstance(found.mid["2"].experts, llm_blocks.QuantizedExperts)
        assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in wanted.items())
