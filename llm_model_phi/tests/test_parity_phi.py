"""Phi 1, 1.5 and 2 against transformers."""

from llm_blocks import testing

FAMILY = testing.Family(
    model_type="phi",
    models="Phi-1, Phi-1.5, Phi-2",
    features="attention and MLP in parallel behind one LayerNorm, part of each head turns, biases everywhere",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": None,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
    },
    cases={
        "half of each head": {},
        "0.4 of each head": {"hidden_size": 80, "partial_rotary_factor": 0.4},  # 8 of 20, as Phi-2's 32 of 80
        "share not said": {"partial_rotary_factor": None, "intermediate_size": 128},
        "whole heads, said inside": {
            "partial_rotary_factor": None,
            "rope_theta": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
        },
        "qk-norm, gqa": {"qk_layernorm": True, "num_key_value_heads": 2},
        "tied, mqa": {"tie_word_embeddings": True, "num_key_value_heads": 1},
        "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
        "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    },
    refused=[
        {"hidden_act": "gelu"},
        {"head_dim": 16},
        {"num_attention_heads": 3},
        {"partial_rotary_factor": 0.4},  # 3 of 8 dimensions are not in pairs
        {"partial_rotary_factor": 0.1},
        {"sliding_window": 8},
        {"n_embd": 32},
    ],
)
TestPhi = testing.suite(FAMILY)
