"""Quantized mixtures of experts and GPT-2: on the fly, and as folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
import llm_quant
from llm_blocks import QuantizedExperts
from llm_cli import LLM, app
from llm_cli.checkpoints import open_checkpoint
from llm_cli.quantized_folder import plan_folder, write_folder

IDS = torch.tensor([[1, 65, 66, 200, 7]])
LEFT = {
    "mixtral": ["block_sparse_moe.gate", "mlp.gate"],
    "qwen2_moe": ["mlp.gate", "mlp.shared_expert_gate"],
    "qwen3_moe": ["mlp.gate"],
    "phimoe": ["block_sparse_moe.gate", "mlp.router"],
    "deepseek_v2": ["self_attn.kv_b_proj", "mlp.gate"],
    "deepseek_v3": ["self_attn.kv_b_proj", "mlp.gate"],
}


MakeMixture = Callable[..., Path]
SameNumbers = Callable[..., int]


def make_gpt2(folder: Path) -> Path:
    sizes = {"vocab_size": 264, "dim": 32, "hidden_dim": 64, "num_layers": 2, "num_heads": 4, "max_positions": 64}
    config = llm_blocks.find("gpt2").Config(**sizes)
    llm_blocks.save(llm_blocks.new_model(config, seed=1, std=0.2, dtype=torch.bfloat16), folder)
    return folder


def quantized(source: Path, out: Path, scheme: str, **options: Any) -> Path:
    write_folder(plan_folder(open_checkpoint(source), scheme, **options), out)
    return out


def load(folder: Path, **options: Any) -> LLM:
    llm = LLM.load(folder, distribute=None)
    llm.distribute(accelerator="cpu", **({"precision": "32-true"} | options))
    return llm


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("model_type", LEFT)
def test_a_folder_is_what_quantizing_on_the_fly_gives(
    make_mixture: MakeMixture, same_numbers: SameNumbers, tmp_path: Path, model_type: str, scheme: str
) -> None:
    """Bit for bit, whatever the model computes in: both round the numbers of the file."""
    source = make_mixture(model_type)
    out = quantized(source, tmp_path / "out", scheme)
    for precision in ("32-true", "bf16-true"):
        stored, fly = load(out, precision=precision), load(source, quantize=scheme, precision=precision)
        assert same_numbers(fly.model, stored.model) == same_numbers(stored.model, fly.model) > 20
        assert any(isinstance(module, QuantizedExperts) for module in stored.model.modules())
        assert torch.equal(stored(IDS), fly(IDS))
    left = json.loads((out / "config.json").read_text())["quantization_config"]["ignore"]
    assert {name.split(".", 3)[3] for name in left} == set(LEFT[model_type])


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@torch.no_grad()
def test_gpt2(same_numbers: SameNumbers, tmp_path: Path, scheme: str) -> None:
    """Its files have matrices the other way round; rows of inputs would be scaled in the place of rows of outputs."""
    source = make_gpt2(tmp_path / "source")
    out = quantized(source, tmp_path / "out", scheme)
    stored, fly, whole = load(out), load(source, quantize=scheme), load(source)
    assert same_numbers(fly.model, stored.model, skip="end.head") == 8  # a tied head is rounded on the fly alone
    tensors = load_file(out / "model.safetensors")
    assert tensors["transformer.h.0.attn.c_attn.weight_shape"].tolist() == [96, 32]
    error = (stored(IDS) - whole(IDS)).norm() / whole(IDS).norm()
    assert 1e-4 < error < (0.05 if scheme == "int8" else 0.5)
    exact = load(source)
    for layer in llm_quant.targets(exact.model).values():
        if layer is not exact.model.end.head:
            weight = llm_quant.matrix_of(layer)
            rounded = llm_quant.round_int8(weight) if scheme == "int8" else llm_quant.round_int4(weight, 32)
            weight.copy_(rounded.dequantize())
    torch.testing.assert_close(stored(IDS), exact(IDS), rtol=1e-3, atol=1e-3)


def test_stacked_sources_make_the_same_folder(make_mixture: MakeMixture, tmp_path: Path) -> None:
    source = make_mixture("mixtral")
    wanted = load_file(quantized(source, tmp_path / "a", "int4") / "model.safetensors")
    model = llm_blocks.load(source)
    tensors = {name: t for name, t in load_file(source / "model.safetensors").items() if ".experts." not in name}
    for layer in range(2):
        for name in ("gate_up", "down"):
            stack = getattr(model.mid[str(layer)].mlp.experts, name)
            tensors[f"model.layers.{layer}.mlp.experts.{name}_proj"] = stack.detach().contiguous()
    save_file(tensors, source / "model.safetensors")
    found = load_file(quantized(source, tmp_path / "b", "int4") / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    assert "model.layers.1.block_sparse_moe.experts.5.w2.weight_packed" in found


def test_experts_may_be_left_as_they_are(make_mixture: MakeMixture, tmp_path: Path, capsys: Any) -> None:
    source = make_mixture("qwen3_moe")
    command = ["quantize", str(source), "--to", "int8", "--out", str(tmp_path / "out"), "--json"]
    assert app.run([*command, "--skip", "*.experts.*.down_proj", "--skip", "*.mlp.gate"]) == 0  # which stay anyway
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == 2 * (4 + 6 * 2) + 1
    assert len(found["left"]) == 2 * 6 + 2
    experts = load(tmp_path / "out").model.mid["0"].mlp.experts
    assert isinstance(experts.gate_up.layers[3], llm_quant.QuantizedLinear)
    assert isinstance(experts.down.layers[3], torch.nn.Linear)
    assert app.run(["info", str(tmp_path / "out"), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["quantization"] == "int8, a scale for each row (compressed-tensors)"


def test_the_numbers_of_the_file_are_rounded_whatever_the_precision(
    make_checkpoint: Callable[..., Path], same_numbers: SameNumbers
) -> None:
    """A float16 file was made bf16 first, and the rounding was of that."""
    source = make_checkpoint(dtype=torch.float16)
    wanted = llm_quant.quantize(llm_blocks.load(source), "int8")
    for precision in ("32-true", "bf16-true", "16-true"):
        assert same_numbers(wanted, load(source, quantize="int8", precision=precision).model) == 15
