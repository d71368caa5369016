"""Granite against transformers."""

from typing import Any

import pytest
import torch

from llm_blocks import Rope, testing
from llm_model_llama.granite import PRESETS, Config, Model

FAMILY = testing.Family(
    model_type="granite",
    models="Granite 3.0 to 3.3 and 4.1 (dense), PowerLM 3B",
    features="factors on embeddings, attention scores, residuals and logits",
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
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.125,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "rope_theta": 10000.0,
        "rope_scaling": None,
    },
    cases={
        "multipliers": {},
        "whole numbers, untied, mqa": {
            "embedding_multiplier": 3,
            "logits_scaling": 10,
            "attention_multiplier": 1,
            "residual_multiplier": 2,
            "tie_word_embeddings": False,
            "num_key_value_heads": 1,
        },
        "no multipliers, biases and head_dim": {
            "embedding_multiplier": None,
            "attention_multiplier": None,
            "residual_multiplier": None,
            "logits_scaling": None,
            "tie_word_embeddings": None,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 12,
        },
        "linear": {
            "rope_theta": None,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 5000000.0, "factor": 4.0},
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"residual_multiplier": 0},
        {"logits_scaling": "8"},
        {"num_local_experts": 8},
        {"shared_intermediate_size": 56},
    ],
)
TestGranite = testing.suite(FAMILY)

PUBLISHED: dict[str, Any] = {  # as granite-3.3-8b-instruct
    "architectures": ["GraniteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_multiplier": 0.0078125,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12800,
    "logits_scaling": 16.0,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "granite",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.49.0",
    "use_cache": True,
    "vocab_size": 49159,
}


def test_a_published_file_is_read() -> None:
    assert Config.from_hf(PUBLISHED) == PRESETS["granite-3.3-8b-instruct"]
    later = PUBLISHED | {"rope_theta": None, "rope_parameters": {"rope_theta": 10000000, "rope_type": "default"}}
    assert Config.from_hf(later).rope == Rope(theta=10_000_000.0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("granite-3.0-8b-instruct", 8_170_848_256),
        ("granite-3.1-2b-instruct", 2_533_531_648),
        ("granite-3.3-8b-instruct", 8_170_864_640),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_presets_have_the_published_multipliers() -> None:
    small, large = PRESETS["granite-3.1-2b-instruct"], PRESETS["granite-3.1-8b-instruct"]
    assert (small.head_dim, small.attention_multiplier, small.logits_scaling) == (64, 0.015625, 8)
    assert (large.head_dim, large.attention_multiplier, large.logits_scaling) == (128, 0.0078125, 16)
