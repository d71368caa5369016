"""Quantized folders across programs: ours in transformers with compressed-tensors, and that library's in ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
import llm_quant
from llm_blocks.names import to_hf_name
from llm_cli.checkpoints import open_checkpoint
from llm_cli.quantized_folder import plan_folder, write_folder

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed (pip install compressed-tensors)")

from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = torch.tensor([[1, 65, 66, 20, 7]])


@pytest.fixture(scope="module", params=["untied", "tied"])
def source(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(tie_word_embeddings=request.param == "tied", tokenizer=False)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("dequantize", [True, False])
def test_transformers_loads_what_we_write(source: Path, tmp_path: Path, scheme: str, dequantize: bool) -> None:
    if scheme == "int4" and not dequantize:
        # compressed-tensors 0.20 doesn't pack the zero points of the empty model that transformers fills
        pytest.skip("transformers reads asymmetric weights with dequantize=True alone")
    write_folder(plan_folder(open_checkpoint(source), scheme), tmp_path / "out")
    how: dict[str, Any] = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, **how)
    ours = llm_blocks.load(tmp_path / "out")
    with torch.no_grad():
        wanted = theirs(IDS).logits
        error = (ours(IDS) - wanted).abs().max() / wanted.abs().max()
    # the library dequantizes in the dtype of the scales: int4's are bf16, so its weights are rounded once more
    assert error < (1e-3 if scheme == "int8" else 3e-2)
    table, layers = llm_blocks.find("llama").NAMES, 0
    for path, layer in ours.named_modules():
        if isinstance(layer, llm_quant.QuantizedLinear) and dequantize:
            weight = theirs.get_submodule(to_hf_name(table, f"{path}.weight").removesuffix(".weight")).weight
            assert torch.equal(weight, layer.weight.dequantize(layer.weight.scale.dtype).float()), path
            layers += 1
    assert layers == (14 + (not ours.config.tie_embeddings) if dequantize else 0)


MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "phimoe", "deepseek_v2", "deepseek_v3")


@pytest.mark.parametrize("dequantize", [True, False])
@pytest.mark.parametrize("model_type", MIXTURES)
def test_transformers_loads_experts_in_int8(
    make_mixture: Callable[..., Path], tmp_path: Path, model_type: str, dequantize: bool
) -> None:
    """Routers are left there too. int4 is none of it: transformers 5.23 doesn't read zero points of experts."""
    write_folder(plan_folder(open_checkpoint(make_mixture(model_type, dtype=torch.float32)), "int8"), tmp_path / "out")
    how: dict[str, Any] = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, **how)
    with torch.no_grad():
        wanted = theirs(IDS).logits
        error = (llm_blocks.load(tmp_path / "out")(IDS) - wanted).abs().max() / wanted.abs().max()
    assert error < 1e-3


@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32},
        {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32},
        {"num_bits": 4, "symmetric": True, "strategy": "channel"},
        {"num_bits": 8, "symmetric": True, "strategy": "channel"},
    ],
    ids=["int4", "asymmetric", "rows", "int8"],
)
def test_we_load_what_the_library_writes(tmp_path: Path, weights: dict[str, Any]) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"]))
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            grouped = layer.weight.unflatten(1, (layer.weight_scale.size(1), -1))
            scale, zero = calculate_qparams(grouped.amin(2), grouped.amax(2), scheme.weights)
            layer.weight_scale.data.copy_(scale)
            if hasattr(layer, "weight_zero_point"):
                layer.weight_zero_point.data.copy_(zero)
            layer.quantization_status = QuantizationStatus.FROZEN
    with torch.no_grad():
        wanted = model(IDS).logits
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(tmp_path / "theirs")
    compressor.update_config(str(tmp_path / "theirs"))
    ours = llm_blocks.load(tmp_path / "theirs")
    assert isinstance(ours.mid["1"].mlp.down, llm_quant.QuantizedLinear)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), wanted, rtol=1e-4, atol=1e-4)
