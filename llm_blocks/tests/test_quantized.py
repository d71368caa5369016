"""Folders whose layers are stored as whole numbers: what is read, in which order, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_blocks
import llm_sepweight
from llm_blocks.loading import open_checkpoint
from llm_blocks.names import from_hf_name
from llm_blocks.testing import nearest, rewrite, store_rounded, words
from llm_quant import QuantizedLinear, round_int8
from llm_quant.formats import CompressedTensors
from llm_sepweight import WeightsError

INT4 = CompressedTensors(bits=4, group_size=8, symmetric=False)
INT8 = CompressedTensors(bits=8, group_size=None, symmetric=True)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True}
LAYERS = [*(f"layers.{i}.{name}" for i in range(3) for name in ("query", "key_value"))]
IDS = torch.tensor([[1, 5, 22, 7]])

Change = Callable[[dict[str, Tensor]], Any]


def packed(folder: Path, form: CompressedTensors, layers: list[str] = LAYERS) -> Path:
    return store_rounded(folder, form, layers)


def rounded_like(model: Any, form: CompressedTensors, names: tuple[str, ...] = ("q", "kv")) -> Any:
    """The model with the same layers rounded, as plain ones."""
    for block in model.mid.values():
        for name in names:
            layer = getattr(block, name)
            layer.weight = nn.Parameter(nearest(layer.weight, form).dequantize(), requires_grad=False)
    return model


@pytest.mark.parametrize("form", [INT4, INT8], ids=str)
def test_a_quantized_folder_is_the_rounded_model(folder: Path, model: Any, form: CompressedTensors) -> None:
    loaded = llm_blocks.load(packed(folder, form))
    assert isinstance(loaded.mid["2"].kv, QuantizedLinear)
    assert type(loaded.end.head) is nn.Linear
    assert not loaded.training
    assert loaded.mid["2"].kv.bias is not None
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS), rounded_like(model, form)(IDS), rtol=1e-3, atol=1e-3)


def test_parts_compose(folder: Path) -> None:
    whole = llm_blocks.load(packed(folder, INT4))
    first, second = (llm_blocks.load(folder, part) for part in ("b 0-1", "1-3 e"))
    with torch.no_grad():
        assert torch.equal(second(first(IDS)), whole(IDS))


def test_every_part_has_the_dtype_of_what_is_computed_with(folder: Path) -> None:
    """Scales are the most bytes of what floats here, and say nothing of the model's dtype."""
    packed(folder, CompressedTensors(bits=4, group_size=2, symmetric=False), [*LAYERS, "head"])
    rewrite(folder, put("embed.weight", lambda t: t.half()))
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.dtype == torch.float16
        assert llm_blocks.loading.main_dtype(checkpoint.weights) == torch.bfloat16
    assert llm_blocks.load(folder, "1-2").mid["1"].norm.weight.dtype == torch.float16


def test_some_layers_may_be_left_out(folder: Path) -> None:
    loaded = llm_blocks.load(packed(folder, INT4, LAYERS[2:]), dtype=torch.bfloat16)
    assert type(loaded.mid["0"].q) is nn.Linear
    assert loaded.mid["0"].q.weight.dtype == torch.bfloat16
    assert isinstance(loaded.mid["1"].q, QuantizedLinear)


def as_gptq(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with all layers as AutoGPTQ writes them with act order; gives the weights that they stand for."""
    torch.manual_seed(0)
    weights: dict[str, Tensor] = {}
    for layer in LAYERS:
        k = tensors.pop(f"{layer}.weight").size(1)
        value, zero = torch.randint(0, 16, (16, k)), torch.randint(1, 16, (16, k // 8))
        scale, groups = (torch.rand(16, k // 8) / 20).half(), (torch.arange(k) // 8)[torch.randperm(k)]
        weights[layer] = scale.float()[:, groups] * (value - zero[:, groups])
        tensors |= {
            f"{layer}.qweight": words(value).t(),
            f"{layer}.qzeros": words(zero.t() - 1),
            f"{layer}.scales": scale.t(),
            f"{layer}.g_idx": groups.int(),
        }
        tensors.setdefault(f"{layer}.bias", torch.zeros(16))  # AutoGPTQ gives each layer one
    return weights


def test_gptq_with_groups_in_any_order(folder: Path, model: Any) -> None:
    weights: dict[str, Tensor] = {}
    loaded = llm_blocks.load(rewrite(folder, lambda t: weights.update(as_gptq(t)), quantization_config=GPTQ))
    assert loaded.mid["0"].q.order is not None
    assert loaded.mid["0"].q.bias is None
    for name, weight in weights.items():
        layer = model.mid[name.split(".")[1]]
        layer = layer.q if name.endswith("query") else layer.kv
        layer.weight = nn.Parameter(weight, requires_grad=False)
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS), model(IDS), rtol=1e-3, atol=1e-3)


def test_a_bias_that_the_model_lacks_must_be_empty(folder: Path) -> None:
    rewrite(folder, as_gptq, quantization_config=GPTQ)
    rewrite(folder, lambda t: t["layers.1.query.bias"].add_(1))
    with pytest.raises(WeightsError, match=r"layers\.1\.query\.qweight.* has a bias, which config\.json says"):
        llm_blocks.load(folder)


def put(name: str, make: Callable[[Tensor], Tensor | None]) -> Change:
    """Change one tensor, or take it away."""

    def change(tensors: dict[str, Tensor]) -> None:
        found = make(tensors.pop(name))
        if found is not None:
            tensors[name] = found

    return change


def copy_to(name: str, new: str) -> Change:
    return lambda tensors: tensors.update({new: tensors[name].clone()})


QUERY = "layers.1.query"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (put(f"{QUERY}.weight_zero_point", lambda t: None), r"query\.weight_packed .*: lacks its weight_zero_point"),
        (put(f"{QUERY}.weight_scale", lambda t: None), "lacks its weight_scale, which layers of int4, groups of 8"),
        (put(f"{QUERY}.weight_packed", lambda t: None), r"lacks layers\.1\.query\.weight .*says the model has"),
        (put(f"{QUERY}.weight_packed", lambda t: t[:, :1]), r"query\.weight_packed .* has shape \(16, 1\).* \(16, 2\)"),
        (put(f"{QUERY}.weight_scale", lambda t: t.repeat(1, 50_000)), r"has shape \(16, 100000\).* asks for \(16, 2\)"),
        (put(f"{QUERY}.weight_zero_point", lambda t: t[:1]), r"zero_point .* has shape \(1, 2\).* asks for \(2, 2\)"),
        (put(f"{QUERY}.weight_packed", lambda t: t.float()), r"is torch\.float32, .* asks for torch\.int32"),
        (put(f"{QUERY}.weight_scale", lambda t: t.char()), r"is torch\.int8, .* torch\.bfloat16 or torch\.float16"),
        (put(f"{QUERY}.weight_shape", lambda t: t * 2), r"weight_shape says \[32, 32\], the model \[16, 16\]"),
        (copy_to(f"{QUERY}.weight_shape", f"{QUERY}.weight_g_idx"), "weight_g_idx .*: layers of int4.* have none"),
        (copy_to("norm.weight", f"{QUERY}.weight"), r"holds layers\.1\.query\.weight .* the model hasn't"),
        (copy_to(f"{QUERY}.weight_packed", "layers.7.query.weight_packed"), "config.json says the model hasn't this"),
        (copy_to(f"{QUERY}.weight_packed", "other.weight_packed"), "unknown tensor 'other.weight"),
        (copy_to(f"{QUERY}.weight_packed", "norm.weight_packed"), "no linear layer but RMSNorm"),
        (copy_to(f"{QUERY}.weight_packed", "embed.weight_packed"), "no linear layer but Embedding"),
    ],
)
def test_damaged_folders_are_refused(folder: Path, change: Change, rule: str) -> None:
    rewrite(packed(folder, INT4), change)
    with pytest.raises(WeightsError, match=rule) as caught:
        llm_blocks.load(folder)
    assert str(folder) in str(caught.value)


def test_a_tied_head_is_no_quantized_one(folder: Path) -> None:
    packed(folder, INT4, [*LAYERS, "head"])
    assert isinstance(llm_blocks.load(folder).end.head, QuantizedLinear)
    rewrite(folder, lambda t: None, tied=True)
    with pytest.raises(WeightsError, match=r"the head is quantized, though config.json ties it to the embedding"):
        llm_blocks.load(folder)


def test_a_tied_model(toy: Any, tmp_path: Path) -> None:
    model = llm_blocks.new_model(toy.Config(tie_embeddings=True), std=0.3, seed=3).eval()
    llm_blocks.save(model, tmp_path / "tied")
    loaded = llm_blocks.load(packed(tmp_path / "tied", INT8))
    assert loaded.end.head.weight is loaded.begin.embed.weight
    with torch.no_grad():
        wanted = rounded_like(model, INT8)(IDS)
        torch.testing.assert_close(loaded(IDS), wanted, rtol=1e-3, atol=1e-3)
        first, last = (llm_blocks.load(tmp_path / "tied", part) for part in ("b 0-2", "2-3 e"))
        assert torch.equal(last(first(IDS)), loaded(IDS))


def test_inputs_that_are_no_whole_groups(folder: Path) -> None:
    packed(folder, INT4)
    odd = CompressedTensors(bits=4, group_size=24, symmetric=False)
    rewrite(folder, lambda t: None, quantization_config=odd.to_hf([]))
    with pytest.raises(WeightsError, match=r"16 inputs are no whole groups of 24, as config.json has them"):
        llm_blocks.load(folder)


@pytest.mark.parametrize("name", ["begin.weight_packed", "mid.0.weight_packed", "mid.1.q.inner.weight_packed"])
def test_a_sepweight_folder_with_strange_names(folder: Path, model: Any, name: str) -> None:
    layers = {
        f"mid.0.q.{suffix}": tensor for suffix, tensor in INT8.encode(round_int8(model.mid["0"].q.weight)).items()
    }
    tensors = {key: tensor.detach() for key, tensor in model.state_dict().items() if key != "mid.0.q.weight"}
    tensors |= layers
    raw = json.loads((folder / "config.json").read_text()) | {"quantization_config": INT8.to_hf([])}
    llm_sepweight.write(folder.parent / "fine", tensors, config=raw)
    assert isinstance(llm_blocks.load(folder.parent / "fine").mid["0"].q, QuantizedLinear)
    tensors[name] = torch.zeros(2, 2, dtype=torch.int32)
    llm_sepweight.write(folder.parent / "strange", tensors, config=raw)
    with pytest.raises(WeightsError, match=rf"strange.*{name}.* the model hasn't"):
        llm_blocks.load(folder.parent / "strange")


def test_a_folder_without_any_quantized_tensor(folder: Path) -> None:
    rewrite(folder, lambda t: None, quantization_config=INT4.to_hf([]))
    with pytest.raises(WeightsError, match=r"none of its tensors is quantized, though config.json says so"):
        llm_blocks.load(folder)


def test_what_is_not_known_names_the_file(folder: Path) -> None:
    rewrite(folder, lambda t: None, quantization_config={"quant_method": "fp8"})
    rule = r"config\.json: quantization_config has quant_method = 'fp8'.* bitsandbytes; use the unquantized checkpoint"
    with pytest.raises(ValueError, match=rule):
        llm_blocks.load(folder)
    with pytest.raises(ValueError, match=rule):
        llm_blocks.load_config(folder)


def test_all_but_whole_numbers_is_trained(folder: Path) -> None:
    model = llm_blocks.load(packed(folder, INT8), trainable=True)
    names = {name for name, each in model.named_parameters() if each.requires_grad}
    assert names == {name for name, _ in model.named_parameters()} > {"end.norm.weight"}
    assert not any(name.startswith("mid.0.attention.q.") for name in names)
    assert not any(each.requires_grad for each in llm_blocks.load(folder).parameters())
    model(torch.tensor([[1, 2, 3]])).float().square().sum().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_nothing_is_read_before_all_is_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed(folder, INT4)
    rewrite(folder, put("norm.weight", lambda t: t[:3]))
    monkeypatch.setattr("llm_sepweight.Weights.read", lambda *_, **__: pytest.fail("a tensor was read"))
    with pytest.raises(WeightsError, match=r"norm\.weight .* has shape \(3,\)"):
        llm_blocks.load(folder)


NAMES = {"h.{i}.up.weight": "mid.{i}.up.weight", "h.{i}.up.scales": "mid.{i}.own", "v.*": "", "x": "end.x"}


def test_names_with_another_ending() -> None:
    parts = ("qweight", "scales")
    assert from_hf_name(NAMES, "h.3.up.qweight", parts=parts) == "mid.3.up.qweight"
    assert from_hf_name(NAMES, "h.3.up.scales", parts=parts) == "mid.3.own"  # the table's own goes first
    assert from_hf_name(NAMES, "v.1.qweight", parts=parts) == ""
    for key in (
        "h.3.up.qzeros",
        "qweight",
        "h.3.qweight",
        "x.qweight",
        "h.99999999.up.qweight",
        "h.3.up.weight.scales",
    ):
        with pytest.raises(ValueError, match="unknown tensor"):
            from_hf_name(NAMES, key, parts=parts)
    with pytest.raises(ValueError, match="unknown tensor"):
        from_hf_name(NAMES, "h.3.up.qweight")
