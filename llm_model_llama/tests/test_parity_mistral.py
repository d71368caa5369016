"""Mistral against transformers."""

from llm_blocks import testing

FAMILY = testing.Family(
    model_type="mistral",
    models="Mistral, Mathstral, Danube2",
    features="sliding window on every layer, grouped queries",
    base={
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
        "rope_theta": 10000.0,
        "sliding_window": 8,
    },
    cases={
        "window": {},
        "window of two": {"sliding_window": 2},
        "window beyond the text": {"sliding_window": 4096, "num_key_value_heads": 1},
        "no window, head_dim": {"sliding_window": None, "head_dim": 12, "tie_word_embeddings": True},
    },
    refused=[{"hidden_act": "gelu"}, {"attention_bias": True}, {"sliding_window": 0}, {"layer_types": ["full"]}],
)
TestMistral = testing.suite(FAMILY)
