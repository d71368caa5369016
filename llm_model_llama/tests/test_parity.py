"""Llama against transformers: tiny random weights, fp32, one configuration for each thing that can differ."""

from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import testing

pytest.importorskip("transformers")

BASE: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0, "rope_type": "yarn"}

# Each is BASE with some keys replaced; None takes a key out.
CONFIGS: dict[str, dict[str, Any]] = {
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "gqa": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "tied": {"tie_word_embeddings": True},
    "head_dim and biases": {"head_dim": 12, "attention_bias": True, "mlp_bias": True},
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, **LLAMA3}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        "max_position_embeddings": 16,
    },
    "yarn": {"rope_parameters": YARN},
    "yarn, all options": {
        "rope_parameters": YARN
        | {"beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.9, "truncate": False}
    },
    "yarn, given attention factor": {"rope_parameters": YARN | {"attention_factor": 1.3}},
    "older spelling": {"rope_parameters": None, "rope_theta": 20000.0, "torch_dtype": "float32", "rope_scaling": None},
    "older linear": {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "older llama3": {
        "rope_parameters": None,
        "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, **LLAMA3},
    },
}


def _reference(name: str, folder: Path) -> tuple[Any, Any]:
    config = {key: value for key, value in (BASE | CONFIGS[name]).items() if value is not None}
    return testing.tiny_reference(config, folder), llm_blocks.load(folder)


@pytest.fixture(params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    return _reference(request.param, tmp_path / "reference")


def test_logits_equal_at_once_and_decoded_past_the_original_length(pair: tuple[Any, Any]) -> None:
    reference, model = pair
    ids = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(1))
    testing.check_logits(model, reference, ids, decode=30)


def test_greedy_text_is_identical(pair: tuple[Any, Any]) -> None:
    reference, model = pair
    testing.check_greedy(model, reference, [1, 5, 9, 96, 4], count=64)


def test_saved_folders_load_in_transformers(pair: tuple[Any, Any], tmp_path: Path) -> None:
    _, model = pair
    ids = torch.randint(0, 97, (1, 24), generator=torch.Generator().manual_seed(2))
    testing.check_saved(model, tmp_path / "saved", ids, max_shard_bytes=20_000)
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 1
    again = llm_blocks.load(tmp_path / "saved")
    assert again.config == model.config
    assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize("name", ["gqa", "llama3", "head_dim and biases"])
@torch.inference_mode()
def test_right_padded_batch_equals_each_row_in_transformers(name: str, tmp_path: Path) -> None:
    reference, model = _reference(name, tmp_path)
    rows = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [5]]
    ids = torch.tensor([row + [0] * (7 - len(row)) for row in rows])
    cache = model.new_cache(3, 8)
    logits = model(ids, cache, counts=[3, 7, 1])
    step = model(torch.tensor([[8], [9], [10]]), cache)
    for b, row in enumerate(rows):
        wanted = reference(torch.tensor([[*row, 8 + b]]), use_cache=False).logits[0]
        torch.testing.assert_close(logits[b, : len(row)], wanted[:-1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(step[b, 0], wanted[-1], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_bf16_is_as_near_to_fp32_as_transformers_is(tmp_path: Path) -> None:
    reference, model = _reference("gqa", tmp_path)
    ids = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(3))
    exact = model(ids)
    ours = llm_blocks.load(tmp_path, dtype=torch.bfloat16)(ids)
    theirs = reference.to(torch.bfloat16)(ids, use_cache=False).logits
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).abs().mean() < 1.2 * (theirs - exact).abs().mean()
