"""What the config.json of published Gemmas says, and what is read from it."""

from typing import Any

import pytest
import torch

from llm_blocks import Rope, find
from llm_model_llama import gemma, gemma2, gemma3

COMMON: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
ONE: dict[str, Any] = COMMON | {
    "architectures": ["GemmaForCausalLM"],
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "transformers_version": "4.38.0.dev0",
    "vocab_size": 256000,
}
TWO: dict[str, Any] = COMMON | {
    "architectures": ["Gemma2ForCausalLM"],
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "query_pre_attn_scalar": 256,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "transformers_version": "4.42.0.dev0",
    "vocab_size": 256000,
}
THREE: dict[str, Any] = COMMON | {
    "architectures": ["Gemma3ForCausalLM"],
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "transformers_version": "4.50.0.dev0",
    "vocab_size": 262144,
}
SEEING: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 27},
}
FIVE_OF_SIX = ["sliding_attention"] * 5 + ["full_attention"]
PUBLISHED: dict[str, tuple[dict[str, Any], Any]] = {
    "Gemma 2B": (ONE, gemma.PRESETS["gemma-2b"]),
    "Gemma 2B, later revisions": (
        ONE | {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
        gemma.PRESETS["gemma-1.1-2b"],
    ),
    "CodeGemma 2B": (ONE | {"hidden_activation": None}, gemma.PRESETS["codegemma-2b"]),
    "Gemma 2 9B": (TWO, gemma2.PRESETS["gemma-2-9b"]),
    "Gemma 2 9B, written by transformers 5": (
        TWO
        | {"hidden_act": None, "rope_theta": None, "sliding_window_size": None, "cache_implementation": None}
        | {"layer_types": ["sliding_attention", "full_attention"] * 21, "use_bidirectional_attention": None}
        | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": True},
        gemma2.PRESETS["gemma-2-9b"],
    ),
    "Gemma 3 1B": (THREE, gemma3.PRESETS["gemma-3-1b"]),
    "Gemma 3 270M": (
        THREE
        | {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "layer_types": FIVE_OF_SIX * 3}
        | {"_sliding_window_pattern": 6, "sliding_window_pattern": None, "use_bidirectional_attention": False},
        gemma3.PRESETS["gemma-3-270m"],
    ),
    "Gemma 3 4B": (SEEING, gemma3.PRESETS["gemma-3-4b"]),
    "Gemma 3 12B, with every key spelt out": (
        SEEING
        | {"unsloth_fixed": True, "bos_token_id": 2, "pad_token_id": 0}
        | {
            "text_config": THREE
            | {"hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48, "num_attention_heads": 16}
            | {"num_key_value_heads": 8, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}
            | {"sliding_window": 1024, "max_position_embeddings": 131072, "vocab_size": 262208}
        },
        gemma3.PRESETS["gemma-3-12b"],
    ),
    "Gemma 3 27B": (
        SEEING
        | {
            "text_config": SEEING["text_config"]
            | {"head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32}
            | {"num_hidden_layers": 62, "num_key_value_heads": 16, "query_pre_attn_scalar": 168}
        },
        gemma3.PRESETS["gemma-3-27b"],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_folders_are_read_as_the_preset_of_their_name(name: str) -> None:
    raw, wanted = PUBLISHED[name]
    assert find(raw["model_type"]).Config.from_hf(raw) == wanted


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("Gemma 3")])
def test_transformers_reads_the_same_of_published_gemma_3(name: str) -> None:
    """Above all the defaults of what a text_config leaves out, and which layers a scaled base belongs to."""
    transformers = pytest.importorskip("transformers")
    raw, wanted = PUBLISHED[name]
    theirs = transformers.AutoConfig.for_model(**raw).get_text_config()
    found = {key: getattr(theirs, key) for key in wanted.to_hf() if key not in ("architectures", "rope_parameters")}
    assert found == {key: wanted.to_hf()[key] for key in found}
    assert gemma3.Config.from_hf(theirs.to_dict()) == wanted


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gemma-2b", 2_506_172_416),
        ("gemma-7b", 8_537_680_896),
        ("gemma-2-2b", 2_614_341_888),
        ("gemma-2-9b", 9_241_705_984),
        ("gemma-2-27b", 27_227_128_320),
        ("gemma-3-270m", 268_098_176),
        ("gemma-3-1b", 999_885_952),
        ("gemma-3-4b", 3_880_263_168),
        ("gemma-3-12b", 11_766_034_176),
        ("gemma-3-27b", 27_009_346_304),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    module = next(each for each in (gemma, gemma2, gemma3) if name in each.PRESETS)
    with torch.device("meta"):
        model = module.Model(module.PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_older_base_of_layers_with_a_window_is_not_scaled() -> None:
    raw = THREE | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 5000}
    config = gemma3.Config.from_hf(raw)
    assert config.rope == Rope(kind="linear", theta=1e6, factor=8.0)
    assert config.local_rope == Rope(theta=5e3)


def test_an_untied_head_may_be_said_in_either_place() -> None:
    text = SEEING["text_config"]
    assert gemma3.Config.from_hf(SEEING).tie_embeddings
    assert not gemma3.Config.from_hf(SEEING | {"tie_word_embeddings": False}).tie_embeddings
    assert not gemma3.Config.from_hf(SEEING | {"text_config": text | {"tie_word_embeddings": False}}).tie_embeddings


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"text_config": {"model_type": "gemma2"}}, "text_config has model_type = 'gemma2'"),
        ({"text_config": {"hidden_siez": 64}}, "'hidden_siez' = 64, .* did you mean 'hidden_size'"),
        ({"text_config": {"use_bidirectional_attention": True}}, "use_bidirectional_attention = True"),
        ({"text_config": {"sliding_window": None}}, "sliding_window must be its size"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, "its weights are quantized"),
        ({"text_config": ["gemma3_text"]}, "text_config .* must be an object"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized"),
        ({"audio_config": {}}, "'audio_config'"),
    ],
)
def test_what_cannot_be_honoured_of_a_model_that_sees_images(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        gemma3.Config.from_hf(SEEING | change)
