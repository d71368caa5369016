"""StableLM against transformers."""

from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import Rope, testing
from llm_model_llama.stablelm import PRESETS, Config, Model

FAMILY = testing.Family(
    model_type="stablelm",
    unrecorded=("2 12B", "head norms*"),
    models="StableLM 3B 4E1T, Zephyr 3B, Stable Code 3B, StableLM 2 1.6B and 12B",
    features="LayerNorm with biases, partial rotary embedding, a norm for each head, attention and MLP side by side",
    base={
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 88,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
        "hidden_act": "silu",
        "hidden_dropout": 0.0,
        "tie_word_embeddings": False,
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000,
        "use_qkv_bias": False,
    },
    cases={
        "3B": {},
        "2 1.6B": {"use_qkv_bias": True, "partial_rotary_factor": None, "rope_theta": None},
        "2 12B": {"qk_layernorm": True, "use_parallel_residual": True, "num_key_value_heads": 2},
        "head norms in sequence, tied, mqa": {
            "qk_layernorm": True,
            "use_qkv_bias": True,
            "tie_word_embeddings": True,
            "num_key_value_heads": 1,
            "layer_norm_eps": 1e-3,
        },
        "side by side, half of a head": {"use_parallel_residual": True, "partial_rotary_factor": 0.5},
        "whole heads, linear": {
            "partial_rotary_factor": None,
            "rope_theta": None,
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 1e4,
                "factor": 2.0,
                "partial_rotary_factor": 1.0,
            },
        },
        "older linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    },
    refused=[
        {"hidden_act": "gelu"},
        {"partial_rotary_factor": 0.2},
        {"partial_rotary_factor": 1.5},
        {"head_dim": 8},
        {"rotary_scaling_factor": 2.0},
        {"norm_eps": 1e-6},
        {"attention_bias": True},
    ],
)
TestStableLm = testing.suite(FAMILY)

OLDER: dict[str, Any] = {  # as stablelm-3b-4e1t was first published, for code of its own
    "architectures": ["StableLMEpochForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_stablelm_epoch.StableLMEpochConfig",
        "AutoModelForCausalLM": "modeling_stablelm_epoch.StableLMEpochForCausalLM",
    },
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 4096,
    "model_type": "stablelm_epoch",
    "norm_eps": 1e-05,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rope_pct": 0.25,
    "rope_theta": 10000,
    "rotary_scaling_factor": 1.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.2",
    "use_cache": True,
    "vocab_size": 50304,
}
TODAY: dict[str, Any] = {  # as stablelm-2-12b
    "architectures": ["StableLmForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 100257,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 13824,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "model_type": "stablelm",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.25,
    "qk_layernorm": True,
    "rope_scaling": None,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.39.2",
    "use_cache": True,
    "use_parallel_residual": True,
    "use_qkv_bias": False,
    "vocab_size": 100352,
}


def test_published_files_are_read() -> None:
    assert Config.from_hf(OLDER) == PRESETS["stablelm-3b-4e1t"]
    assert Config.from_hf(TODAY) == PRESETS["stablelm-2-12b"]


def test_a_quarter_of_a_head_turns_where_no_place_says_how_much() -> None:
    raw = {key: value for key, value in TODAY.items() if key != "partial_rotary_factor"}
    assert Config.from_hf(raw).rope == Rope(partial=0.25)
    inside = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    assert Config.from_hf(raw | {"rope_parameters": inside}).rope == Rope(partial=0.5)
    whole = Config.from_hf(raw | {"rope_parameters": inside | {"partial_rotary_factor": 1.0}})
    assert whole.rope == Rope()
    assert Config.from_hf(whole.to_hf()) == whole


@pytest.mark.parametrize("change", [{"norm_eps": 1e-6}, {"rope_pct": 0.5}])
def test_two_spellings_that_disagree_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Config.from_hf(TODAY | change)


def test_new_norms_of_heads_are_ones() -> None:
    """A new model's norms are found by name, and the weights of these lie deeper than others."""
    model = llm_blocks.new_model(Config.from_hf(FAMILY.config("2 12B")), "b 0-1")
    norms = {name: weight for name, weight in model.named_parameters() if "norm" in name and "bias" not in name}
    assert len(norms) == 1 + 4 + 2
    assert all(bool((weight == 1).all()) for weight in norms.values())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("stablelm-3b-4e1t", 2_795_443_200), ("stable-code-3b", 2_795_443_200), ("stablelm-2-1_6b", 1_644_515_328)],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
