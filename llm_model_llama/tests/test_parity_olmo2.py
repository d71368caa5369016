"""OLMo 2 against transformers."""

from typing import Any

import pytest
import torch

from llm_blocks import testing
from llm_model_llama.olmo2 import PRESETS, Config, Model

FAMILY = testing.Family(
    model_type="olmo2",
    unrecorded=("*",),
    models="OLMo 2 1B, 7B, 13B, 32B",
    features="norms after attention and MLP alone, queries and keys normalised over their whole width",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "rope_theta": 500000,
        "rope_scaling": None,
    },
    cases={
        "mha": {},
        "gqa": {"num_key_value_heads": 2, "rms_norm_eps": 1e-3},
        "mqa, tied, biases and head_dim": {
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "head_dim": 12,
        },
        "yarn": {
            "rope_theta": None,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 500000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    },
    refused=[{"hidden_act": "gelu"}, {"clip_qkv": 8.0}, {"sliding_window": 4096}, {"layer_types": ["full_attention"]}],
)
TestOlmo2 = testing.suite(FAMILY)

PUBLISHED: dict[str, Any] = {  # as OLMo-2-0325-32B
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 100257,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 27648,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 40,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "pad_token_id": 100277,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.49.0",
    "use_cache": True,
    "vocab_size": 100352,
}


def test_a_published_file_is_read() -> None:
    assert Config.from_hf(PUBLISHED) == PRESETS["OLMo-2-0325-32B"]
    assert Config.from_hf(PUBLISHED | {"num_key_value_heads": None}).num_kv_heads == 40


def test_norms_multiply_by_their_weight_before_they_round() -> None:
    """Llama's norms round first, which moves every fourth bf16 number by one step from how OLMo 2 was trained."""
    config = Config.from_hf(FAMILY.config("mha"))
    norm = Model(config, "0-1").mid["0"].post_mlp_norm
    generator = torch.Generator().manual_seed(0)
    norm.weight.data = torch.randn(config.dim, generator=generator).mul(0.1).add(1).bfloat16()
    x = torch.randn(64, config.dim, generator=generator).mul(3).bfloat16()
    exact = x.float() * (x.float().pow(2).mean(-1, keepdim=True) + config.norm_eps).rsqrt() * norm.weight.float()
    assert torch.equal(norm(x), exact.bfloat16())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("OLMo-2-0425-1B", 1_484_916_736),
        ("OLMo-2-1124-7B", 7_298_617_344),
        ("OLMo-2-1124-13B", 13_716_198_400),
        ("OLMo-2-0325-32B", 32_234_279_936),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
