"""Gemma 2 against transformers."""

from pathlib import Path
from typing import Any

import pytest

from llm_blocks import testing
from llm_blocks.testing.suite import check_laws, check_parity
from llm_model_llama.gemma2 import Config

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "attn_logit_softcapping": 0.5,  # lower than in any release, so that every score and logit of a tiny model feels it
    "final_logit_softcapping": 1.5,
    "cache_implementation": "hybrid",
    "rope_theta": 10000.0,
}

FAMILY = testing.Family(
    model_type="gemma2",
    models="Gemma 2, ShieldGemma, DataGemma, TxGemma",
    features="norms before and after, softcapped scores and logits, sliding window on every second layer",
    base=BASE,
    cases={
        "every second layer": {},
        "window of two, one kv head": {"sliding_window": 2, "num_key_value_heads": 1, "sliding_window_size": 2},
        "layer types, untied": {
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": False,
            "rope_theta": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        },
        "caps by default, window beyond the text": {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window": None,
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
        },
    },
    refused=[
        {"hidden_act": "silu"},
        {"hidden_activation": "gelu"},
        {"attention_bias": True},
        {"use_bidirectional_attention": True},
        {"sliding_window": 0},
        {"sliding_window_size": 16},
        {"layer_types": ["sliding_attention"]},
        {"layer_types": ["sliding_attention"] * 3 + ["chunked_attention"]},
        {"layer_types": []},
        {"attn_logit_softcapping": 0.0},
        {"query_pre_attn_scalar": None},
        {"num_hidden_layers": 2**20},
    ],
)
TestGemma2 = testing.suite(FAMILY)


@pytest.mark.parametrize("capped", ["attn_logit_softcapping", "final_logit_softcapping", None])
def test_a_cap_that_is_null_is_none(capped: str | None, tmp_path: Path) -> None:
    config = FAMILY.config("every second layer")
    config |= {key: None for key in ("attn_logit_softcapping", "final_logit_softcapping") if key != capped}
    case = testing.Case(family=FAMILY, folder=tmp_path, reference=testing.tiny_reference(config, tmp_path))
    check_parity(case)
    check_laws(case)
    testing.check_saved(case.model, tmp_path / "saved", case.ids(1, 24))


def test_layers_with_a_window_need_its_size() -> None:
    """Elsewhere null stands for no window; transformers fails on it here once the model runs."""
    null = FAMILY.config("every second layer") | {"sliding_window": None}
    with pytest.raises(ValueError, match="sliding_window must be its size, not null"):
        Config.from_hf(null)
    assert Config.from_hf(null | {"layer_types": ["full_attention"] * 4}).sliding_window is None
