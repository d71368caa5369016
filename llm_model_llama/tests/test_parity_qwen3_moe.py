"""Qwen3's mixtures of experts against transformers."""

from pathlib import Path

import pytest

import llm_blocks
from llm_blocks import testing

YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

FAMILY = testing.Family(
    model_type="qwen3_moe",
    unrecorded=("*",),
    models="Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder",
    features="mixture of many experts; dense layers between; norms on queries and keys per head; YaRN; grouped queries",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": 64,
        "max_window_layers": 3,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
    },
    cases={
        "top 3 of 8": {},
        "probabilities as they are": {"norm_topk_prob": False, "num_key_value_heads": 1},
        "every second layer, tied": {"decoder_sparse_step": 2, "tie_word_embeddings": True},
        "dense layers named, biases": {"mlp_only_layers": [2, 0], "attention_bias": True, "num_key_value_heads": 4},
        "windows, narrow heads": {
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": None,
            "head_dim": None,
        },
        "yarn, one expert": {
            "num_experts_per_tok": 1,
            "max_position_embeddings": 16,
            "rope_scaling": {"rope_type": "yarn", **YARN},
        },
        "keys of 1M and of Coder": {
            "dual_chunk_attention_config": {
                "chunk_size": 100,
                "local_size": 4,
                "original_max_position_embeddings": 100,
                "sparse_attention_enabled": True,
            },
            "max_position_embeddings": 400,
            "use_qk_norm": True,
            "qkv_bias": False,
            "shared_expert_intermediate_size": 0,
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"num_experts_per_tok": 9},
        {"num_experts": 0},
        {"num_local_experts": 4},
        {"use_qk_norm": False},
        {"qkv_bias": True},
        {"shared_expert_intermediate_size": 40},
        {"decoder_sparse_step": 0},
        {"use_sliding_window": True, "sliding_window": 8},
        {"layer_types": ["sliding_attention"] * 3},
    ],
)
TestQwen3Moe = testing.suite(FAMILY)


def test_stacked_experts_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    testing.check_stacked(FAMILY.make("dense layers named, biases", tmp_path / "one by one"), tmp_path / "stacked")


def test_windows_that_leave_out_layers_are_refused() -> None:
    """The first readers of this architecture heeded max_window_layers, transformers 5 gives every layer the window."""
    config = llm_blocks.find("qwen3_moe").Config
    raw = FAMILY.config("top 3 of 8") | {"use_sliding_window": True, "sliding_window": 8}
    assert config.from_hf(raw | {"max_window_layers": 0}).sliding_window == 8
    with pytest.raises(ValueError, match="max_window_layers is 1"):
        config.from_hf(raw | {"max_window_layers": 1})
