"""Llama against transformers: tiny random weights, fp32, one configuration for each thing that can differ."""

from typing import Any

from llm_blocks import testing

BASE: dict[str, Any] = {
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

FAMILY = testing.Family(
    model_type="llama",
    models="Llama 1 to 3.3, Code Llama, Vicuna, TinyLlama, Yi, Falcon3, SmolLM2, Salamandra, R1 distills and more",
    features="grouped queries; default, linear, dynamic, llama3 and YaRN rotary embeddings",
    base=BASE,
    cases=CONFIGS,
    refused=[
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"partial_rotary_factor": 0.5},
        {"num_attention_heads": 3},
    ],
    no_laws=frozenset({"dynamic"}),
    why="the dynamic kind changes its angles as a row grows past the trained length, so chunks may differ there",
)
TestLlama = testing.suite(FAMILY)
