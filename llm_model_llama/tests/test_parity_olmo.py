"""OLMo against transformers."""

from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import Rope, testing
from llm_model_llama.olmo import PRESETS, Config, Model

FAMILY = testing.Family(
    model_type="olmo",
    unrecorded=("*",),
    models="OLMo 1B, 7B (February to July 2024)",
    features="LayerNorm without weights, clipped queries, keys and values",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "clip_qkv": None,
        "rope_theta": 10000.0,
        "rope_scaling": None,
    },
    cases={
        "no clipping": {},
        "clipped, tied, mqa": {"clip_qkv": 0.5, "tie_word_embeddings": True, "num_key_value_heads": 1},
        "biases and head_dim": {"attention_bias": True, "head_dim": 12, "num_key_value_heads": 2, "clip_qkv": 1.0},
        "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "yarn": {
            "rope_theta": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    },
    refused=[{"hidden_act": "gelu"}, {"clip_qkv": 0}, {"rms_norm_eps": 1e-5}, {"partial_rotary_factor": 0.5}],
)
TestOlmo = testing.suite(FAMILY)

OLDER: dict[str, Any] = {  # as OLMo-7B-0424-hf was published
    "architectures": ["OlmoForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "clip_qkv": 8.0,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "olmo",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 1,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 50304,
}


def test_a_published_file_is_read() -> None:
    assert Config.from_hf(OLDER) == PRESETS["OLMo-7B-0424"]
    without = {key: value for key, value in OLDER.items() if key not in ("clip_qkv", "num_key_value_heads")}
    config = Config.from_hf(without | {"num_key_value_heads": None})
    assert (config.clip_qkv, config.num_kv_heads, config.rope) == (None, 32, Rope())


@pytest.mark.parametrize("part", ["f", "b 0-1", "1-2", "2-3 e"])
def test_a_cache_has_the_dtype_of_the_weights_though_no_norm_has_any(part: str) -> None:
    """The cache takes its dtype from the norms of a model, and an OLMo has none that could tell."""
    config = Config.from_hf({**FAMILY.config("no clipping")})
    model = llm_blocks.new_model(config, part, dtype=torch.bfloat16)
    assert not [name for name, _ in model.named_parameters() if "norm" in name]
    cache = model.new_cache(2, 5)
    assert {each.dtype for each in (*cache.k.values(), *cache.v.values())} == {torch.bfloat16}
    assert not list(model.buffers())


def test_norms_are_rounded_once() -> None:
    """A norm of bf16 numbers is that of the same numbers in fp32, rounded afterwards."""
    config = Config.from_hf({**FAMILY.config("no clipping")})
    norm = Model(config, "0-1").mid["0"].attention_norm
    x = torch.randn(64, config.dim, generator=torch.Generator().manual_seed(0)).mul(3).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("OLMo-1B", 1_176_764_416), ("OLMo-7B", 6_888_095_744), ("OLMo-7B-0724", 6_888_095_744)],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
