"""Qwen3 against transformers."""

import json
from pathlib import Path
from typing import Any

import torch
from torch.testing import assert_close

import llm_blocks
from llm_blocks import testing

YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

FAMILY = testing.Family(
    model_type="qwen3",
    models="Qwen 3 (dense), R1-0528 distill of Qwen 3",
    features="norms on queries and keys per head; heads of any size; windows on some layers; YaRN; grouped queries",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "max_window_layers": 3,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
    cases={
        "tied, wide heads": {},
        "narrow heads, biases": {"head_dim": 6, "attention_bias": True, "tie_word_embeddings": False},
        "one kv head, windows from a layer on": {
            "num_key_value_heads": 1,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 2,
        },
        "every head its own, windows by layer": {
            "num_key_value_heads": 4,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "yarn, older spelling": {"max_position_embeddings": 16, "rope_scaling": {"rope_type": "yarn", **YARN}},
        "yarn": {"rope_theta": None, "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **YARN}},
    },
    refused=[
        {"hidden_act": "gelu"},
        {"is_causal": False},
        {"use_sliding_window": True, "sliding_window": 0, "max_window_layers": 0},
        {"layer_types": ["sliding_attention"] * 3},
        {"head_dim": 7},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0, "attn_factor": 0.5}},
        {"rope_scaling": {"rope_type": "yarn", "attn_factor": 0.5, "attention_factor": 1.0, **YARN}},
    ],
)
TestQwen3 = testing.suite(FAMILY)


@torch.inference_mode()
def test_the_attn_factor_of_yarn_multiplies_the_usual_one(tmp_path: Path) -> None:
    """DeepSeek-R1-0528-Qwen3-8B undoes YaRN's factor on cosines and sines: attn_factor = 1 / (0.1 ln 4 + 1).

    transformers takes no notice of the key and multiplies by 1.14, which the model was not trained with. What it was
    trained with is what transformers computes where the file says attention_factor = 1.
    """
    meant: dict[str, Any] = {"rope_type": "yarn", "attention_factor": 1.0, **YARN}
    case = testing.Family(**{**vars(FAMILY), "cases": {"meant": {"rope_scaling": meant}}}).make("meant", tmp_path)
    ids = case.ids(2, 96)
    wanted, raw = case.reference(ids, use_cache=False).logits, case.family.config("meant")
    published = {"rope_type": "yarn", "attn_factor": 0.8782488562869419, **YARN}
    (tmp_path / "config.json").write_text(json.dumps(raw | {"rope_scaling": published}))
    assert_close(llm_blocks.load(tmp_path)(ids), wanted, rtol=1e-5, atol=1e-5)
    (tmp_path / "config.json").write_text(json.dumps(raw | {"rope_scaling": {"rope_type": "yarn", **YARN}}))
    assert (llm_blocks.load(tmp_path)(ids) - wanted).abs().max() > 0.01, "the factor must matter here"
