"""SmolLM3 against transformers."""

from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import Rope, testing
from llm_model_llama.smollm3 import PRESETS, Config, Model

WINDOW: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8}
MIXED = ["sliding_attention", "full_attention", "full_attention", "sliding_attention", "full_attention"]

FAMILY = testing.Family(
    model_type="smollm3",
    models="SmolLM3 3B",
    features="layers without rotary embedding, sliding windows by layer",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "pad_token_id": 0,
        "rope_theta": 5000000.0,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
        "no_rope_layer_interval": 4,
    },
    cases={
        "every fourth layer": {},
        "listed layers, untied": {
            "no_rope_layers": [1, 0, 0, 1, 1],
            "tie_word_embeddings": False,
            "rope_theta": None,
            "num_key_value_heads": 4,
        },
        "window where heads don't turn": WINDOW | {"no_rope_layer_interval": 2},
        "window by layer_types": WINDOW | {"layer_types": MIXED, "sliding_window": 3, "no_rope_layers": [0, 1] * 4},
        "a window that is not used": {"sliding_window": 8, "num_key_value_heads": 1, "no_rope_layer_interval": 1},
        "biases, head_dim, yarn": {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 12,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"no_rope_layers": [1, 1, 1]},
        {"no_rope_layers": [1, 1, 1, 2, 1]},
        {"no_rope_layer_interval": 0},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["chunked_attention"] * 5, **WINDOW},
        {"layer_types": MIXED},
        {"layer_types": MIXED, "sliding_window": 8},
        {"layer_types": MIXED, "use_sliding_window": True},
        {"num_hidden_layers": 2**31 - 1},
    ],
)
TestSmolLM3 = testing.suite(FAMILY)

PUBLISHED: dict[str, Any] = {  # as SmolLM3-3B
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 128256,
}


def test_a_published_file_is_read() -> None:
    """It doesn't say that the head is the embedding: that is what its absence means."""
    assert Config.from_hf(PUBLISHED) == PRESETS["SmolLM3-3B"]
    for absent in ("no_rope_layers", "layer_types", "no_rope_layer_interval", "num_key_value_heads"):
        assert Config.from_hf({**PUBLISHED, absent: None} | {"num_key_value_heads": 4}) == PRESETS["SmolLM3-3B"]


def test_what_absent_keys_mean_is_what_transformers_takes_them_for() -> None:
    bare = {key: PUBLISHED[key] for key in PUBLISHED if key not in ("num_key_value_heads", "rope_theta")}
    config = Config.from_hf(bare)
    assert (config.num_kv_heads, config.rope) == (4, Rope(theta=2_000_000.0))
    assert Config.from_hf(bare | {"num_key_value_heads": None}).num_kv_heads == 16


def test_layers_that_have_a_window_keep_no_more_than_it_needs() -> None:
    config = Config.from_hf(FAMILY.config("window by layer_types"))
    assert config.rope_layers == (False, True, False, True, False)
    cache = llm_blocks.new_model(config, "1-5 e").new_cache(1, 500)
    assert {layer: keys.size(2) < 100 for layer, keys in cache.k.items()} == {1: False, 2: False, 3: True, 4: False}


def test_the_preset_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Model(PRESETS["SmolLM3-3B"])
    assert sum(p.numel() for p in model.parameters()) == 3_075_098_624


def test_lists_of_another_length_than_the_layers_are_refused() -> None:
    config = PRESETS["SmolLM3-3B"].to_hf()
    with pytest.raises(ValueError, match="a 0 or 1 for each of 36 layers"):
        Config.from_hf(config | {"no_rope_layers": [1]})
    with pytest.raises(ValueError, match="need 2 entries, they have 1 and 2"):
        Config(
            vocab_size=9,
            dim=8,
            hidden_dim=8,
            num_layers=2,
            num_heads=2,
            num_kv_heads=2,
            head_dim=4,
            max_positions=8,
            rope_layers=(True,),
            sliding_layers=(False, False),
        )
