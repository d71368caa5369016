"""Mixtral against transformers."""

from pathlib import Path

from llm_blocks import testing

FAMILY = testing.Family(
    model_type="mixtral",
    unrecorded=("*",),
    models="Mixtral 8x7B, 8x22B",
    features="sparse mixture of experts, sliding window, grouped queries",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "router_aux_loss_coef": 0.02,
        "output_router_logits": False,
    },
    cases={
        "top 2 of 4": {},
        "window": {"sliding_window": 8, "num_key_value_heads": 4},
        "top 1 of 5, tied": {"num_local_experts": 5, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        "all of 3": {"num_local_experts": 3, "num_experts_per_tok": 3},
    },
    refused=[{"hidden_act": "gelu"}, {"router_jitter_noise": 0.1}, {"num_experts_per_tok": 5}],
)
TestMixtral = testing.suite(FAMILY)


def test_stacked_experts_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    testing.check_stacked(FAMILY.make("top 2 of 4", tmp_path / "one by one"), tmp_path / "stacked")
