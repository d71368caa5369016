"""Gemma against transformers."""

from pathlib import Path
from typing import Any

import torch

import llm_blocks
from llm_blocks import plan_attention, testing

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "rope_theta": 10000.0,
}
NEW: dict[str, Any] = {"rope_theta": None, "hidden_act": "gelu_pytorch_tanh"}

FAMILY = testing.Family(
    model_type="gemma",
    models="Gemma 1 and 1.1, CodeGemma",
    features="scaled embeddings, norms around 1, GeGLU, tied head, one or as many kv heads",
    base=BASE,
    cases={
        "one kv head, as published": {},
        "as many kv heads, both activations": {
            "num_key_value_heads": 4,
            "head_dim": 16,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
        },
        "grouped, untied": {"num_key_value_heads": 2, "tie_word_embeddings": False, "hidden_size": 40},
        "new spelling": NEW | {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
        "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    },
    refused=[
        {"hidden_act": "silu"},
        {"hidden_activation": "gelu"},
        {"attention_bias": True},
        {"use_bidirectional_attention": True},
        {"num_key_value_heads": 3},
        {"head_dim": 7},
        {"sliding_window": 8},
        {"final_logit_softcapping": 30.0},
    ],
)
TestGemma = testing.suite(FAMILY)


def test_embeddings_are_scaled_by_the_root_of_the_width_in_their_own_dtype(tmp_path: Path) -> None:
    """The root of 32 is 5.657, in bf16 5.656: trained models were multiplied by the latter."""
    case = FAMILY.make("one kv head, as published", tmp_path)
    ids = case.ids(2, 30)
    plan = plan_attention(2, 30, counts=None, cache=None, device=ids.device)
    for dtype in (torch.float32, torch.bfloat16):
        ours = llm_blocks.load(tmp_path, "b", dtype=dtype)
        assert torch.equal(ours.begin(ids, plan), case.reference.to(dtype).model.embed_tokens(ids))
