"""Qwen2's mixtures of experts against transformers."""

from pathlib import Path

import pytest

import llm_blocks
from llm_blocks import testing

WINDOWS = ["full_attention", "sliding_attention", "sliding_attention"]

FAMILY = testing.Family(
    model_type="qwen2_moe",
    unrecorded=("*",),
    models="Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
    features="experts beside a shared one with a gate; dense layers between; biases on queries, keys and values",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "max_position_embeddings": 64,
        "max_window_layers": 3,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_theta": 1000000.0,
        "sliding_window": 64,
        "use_sliding_window": False,
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
    },
    cases={
        "top 3 of 6": {},
        "shares of what was chosen": {"norm_topk_prob": True, "num_key_value_heads": 4},
        "every second layer": {"decoder_sparse_step": 2, "tie_word_embeddings": True},
        "a dense layer named": {"mlp_only_layers": [0], "num_experts_per_tok": 1, "num_key_value_heads": 1},
        "windows, no biases": {
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": WINDOWS,
            "qkv_bias": False,
        },
        "yarn": {
            "max_position_embeddings": 16,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"num_experts_per_tok": 7},
        {"num_experts": 0},
        {"decoder_sparse_step": 0},
        {"shared_expert_intermediate_size": None},
        {"moe_intermediate_size": None},
        {"mlp_only_layers": [-1]},
        {"layer_types": WINDOWS},
        {"layer_types": WINDOWS, "use_sliding_window": True, "sliding_window": 0},
        {"layer_types": WINDOWS[1:], "use_sliding_window": True},
        {"dual_chunk_attention_config": {"chunk_size": 8}},
    ],
)
TestQwen2Moe = testing.suite(FAMILY)


def test_stacked_experts_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    testing.check_stacked(FAMILY.make("every second layer", tmp_path / "one by one"), tmp_path / "stacked")


def test_windows_without_layer_types_are_refused() -> None:
    """transformers has read `use_sliding_window` alone as all layers, as the first ones, and as every other one."""
    raw = FAMILY.config("top 3 of 6") | {"use_sliding_window": True}
    with pytest.raises(ValueError, match="layer_types must say which"):
        llm_blocks.find("qwen2_moe").Config.from_hf(raw)
