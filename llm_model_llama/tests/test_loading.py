"""Llama folders as others write them, and as they are damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
import llm_model_llama
from llm_blocks import ArchitectureError
from llm_model_llama import PRESETS, Config
from llm_sepweight import WeightsError

CONFIG = Config(
    vocab_size=40, dim=16, hidden_dim=24, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=4, max_positions=32
)
IDS = torch.arange(9)[None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llm_blocks.save(llm_blocks.new_model(CONFIG, std=0.2), tmp_path / "llama", max_shard_bytes=6_000)
    return tmp_path / "llama"


def test_the_two_halves_of_a_model_chain(folder: Path) -> None:
    whole, begin, end = (llm_model_llama.load(folder, part) for part in ("f", "b 0-1", "1-3 e"))
    assert torch.equal(end(begin(IDS)), whole(IDS))


def test_pytorch_bin_files_are_read(folder: Path, tmp_path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
    (tmp_path / "bin").mkdir()
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "config.json").write_text((folder / "config.json").read_text())
    assert torch.equal(llm_model_llama.load(tmp_path / "bin")(IDS), llm_model_llama.load(folder)(IDS))


def test_another_model_type_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    with pytest.raises(ArchitectureError, match="model_type 'mistral', not 'llama'; llm_blocks"):
        llm_model_llama.load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llamma"}))
    for load in (llm_model_llama.load, llm_blocks.load):
        with pytest.raises(ArchitectureError, match="did you mean 'llama'"):
            load(folder)


def test_biases_that_config_json_does_not_mention_are_refused(folder: Path) -> None:
    """A checkpoint with biases under a config without attention_bias must not lose them silently."""
    shard = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(shard) | {"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}
    save_file(tensors, shard)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.0.self_attn.q_proj.bias"] = shard.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=rf"{shard.name}: holds model\.layers\.0\.self_attn\.q_proj\.bias"):
        llm_model_llama.load(folder)


def test_a_missing_and_a_truncated_shard_are_named(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=shard.name):
        llm_model_llama.load(folder)
    shard.unlink()
    with pytest.raises(WeightsError, match=shard.name):
        llm_model_llama.load(folder)


def test_a_wrong_width_is_named_with_both_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 25}))
    with pytest.raises(WeightsError, match=r"gate_proj.* has shape \(24, 16\), config\.json asks for \(25, 16\)"):
        llm_model_llama.load(folder)


def test_presets_build_on_the_meta_device_without_memory() -> None:
    with torch.device("meta"):
        model = llm_model_llama.Model(PRESETS["Llama-2-70b"], "b 0-1")
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_loading_draws_no_initial_values_and_imports_nothing_for_them(folder: Path) -> None:
    """torch initialised modules on the meta device too, by Python code whose import took 0.9 s of every start."""
    code = "import sys, llm_blocks; llm_blocks.load(sys.argv[1]); sys.exit('sympy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=120)
