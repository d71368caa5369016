"""GPT-NeoX against transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
from llm_blocks import testing

FAMILY = testing.Family(
    model_type="gpt_neox",
    models="Pythia, GPT-NeoX-20B, Dolly v2, RedPajama-INCITE, StableLM-Alpha, StableCode-Alpha, Polyglot-Ko",
    features="parallel or sequential residual, partial rotary embeddings, fused queries, keys and values",
    base={  # in the older spelling, as nearly all of its checkpoints are published
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    cases={
        "parallel, a quarter turns": {},
        "sequential, all turns": {"use_parallel_residual": False, "rotary_pct": 1.0, "hidden_act": "gelu_new"},
        "nothing said": {"use_parallel_residual": None, "rotary_pct": None, "rotary_emb_base": None},
        "newer spelling, no attention bias, tied": {
            "rotary_pct": None,
            "rotary_emb_base": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 25000.0, "partial_rotary_factor": 0.5},
            "attention_bias": False,
            "tie_word_embeddings": True,
            "hidden_act": "gelu_fast",
        },
        "linear, odd sizes": {
            "hidden_size": 60,
            "num_attention_heads": 3,
            "rotary_pct": 0.3,
            "rotary_emb_base": 20000,
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "hidden_act": "gelu_pytorch_tanh",
        },
        "yarn": {
            "rotary_pct": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            "use_parallel_residual": False,
        },
    },
    refused=[
        {"hidden_act": "relu"},
        {"hidden_act": "quick_gelu"},
        {"num_attention_heads": 3},
        {"rotary_pct": 1.5},
        {"rotary_pct": 0.2},  # of 16 dimensions: 3
        {"rotary_emb_base": 20000, "rope_theta": 10000},
        {"rotary_pct": 0.25, "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        {"rope_scaling": {"type": "mrope"}},
        {"sliding_window": 8},
    ],
)
TestGPTNeoX = testing.suite(FAMILY)


@pytest.fixture
def case(tmp_path: Path) -> testing.Case:
    return FAMILY.make("parallel, a quarter turns", tmp_path / "case")


def _stored(case: testing.Case, folder: Path, tensors: dict[str, torch.Tensor]) -> Any:
    folder.mkdir()
    (folder / "config.json").write_text((case.folder / "config.json").read_text())
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return llm_blocks.load(folder)


def test_the_buffers_of_older_checkpoints_are_dropped(case: testing.Case, tmp_path: Path) -> None:
    tensors = load_file(case.folder / "model.safetensors")
    for layer in range(3):
        name = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{name}.bias"] = torch.ones(1, 1, 64, 64).tril().bool()
        tensors[f"{name}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{name}.rotary_emb.inv_freq"] = torch.ones(8)
    ids = case.ids(1, 9)
    assert torch.equal(_stored(case, tmp_path / "older", tensors)(ids), case.model(ids))


def test_the_names_that_transformers_has_in_memory_are_read(case: testing.Case, tmp_path: Path) -> None:
    tensors = case.reference.state_dict()
    assert "lm_head.weight" in tensors
    ids = case.ids(1, 9)
    assert torch.equal(_stored(case, tmp_path / "state", tensors)(ids), case.model(ids))
