"""Qwen2 against transformers."""

from llm_blocks import testing

YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

FAMILY = testing.Family(
    model_type="qwen2",
    models="Qwen 1.5, 2 and 2.5 with Coder and Math, QwQ, R1 distills of Qwen",
    features="biases on queries, keys and values; windows on some layers; YaRN; grouped queries",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "max_window_layers": 1,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_theta": 1000000.0,
        "sliding_window": 8,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    cases={
        "no window is used": {},
        "windows from a layer on": {"use_sliding_window": True, "rms_norm_eps": 1e-5},
        "windows by layer": {
            "use_sliding_window": True,
            "sliding_window": 2,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "windows on no layer": {"use_sliding_window": True, "max_window_layers": 70, "num_key_value_heads": 4},
        "tied, one kv head": {"tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 12},
        "yarn, older spelling": {"max_position_embeddings": 16, "rope_scaling": {"type": "yarn", **YARN}},
        "yarn and windows": {
            "rope_theta": None,
            "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **YARN},
            "use_sliding_window": True,
            "sliding_window": 24,
        },
        "trained length of 1M": {
            "rope_theta": 10000000.0,
            "max_position_embeddings": 400,
            "dual_chunk_attention_config": {
                "chunk_size": 100,
                "local_size": 4,
                "original_max_position_embeddings": 100,
            },
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"attention_bias": False},
        {"use_mrope": True},
        {"is_causal": False},
        {"num_attention_heads": 3},
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}},
        {"dual_chunk_attention_config": {"chunk_size": 100}},
        {"layer_types": ["full_attention"] * 2},
        {"layer_types": ["sliding_attention"] * 3},
        {"layer_types": ["full_attention", "chunked_attention", "full_attention"], "use_sliding_window": True},
        {"use_sliding_window": True, "sliding_window": 0},
        {"use_sliding_window": True, "sliding_window": None, "layer_types": ["sliding_attention"] * 3},
    ],
)
TestQwen2 = testing.suite(FAMILY)
