"""What config.json may say: both spellings, defaults of older files, and what is refused."""

from typing import Any

import pytest
import torch

from llm_blocks import Rope
from llm_model_llama import PRESETS, Config, Model

OLDER: dict[str, Any] = {  # as Llama 2 was published
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 100,
}


def test_an_older_file_leaves_much_to_defaults() -> None:
    config = Config.from_hf(OLDER)
    assert (config.num_kv_heads, config.head_dim, config.rope) == (8, 8, Rope())
    assert [config.attention_bias, config.mlp_bias, config.tie_embeddings] == [False] * 3


def test_what_transformers_writes_today_is_read() -> None:
    LlamaConfig = pytest.importorskip("transformers").LlamaConfig

    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    theirs = LlamaConfig(
        hidden_size=64,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling},
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    config = Config.from_hf(theirs.to_dict())
    assert (config.num_kv_heads, config.head_dim, config.attention_bias, config.tie_embeddings) == (2, 16, True, True)
    assert config.rope == Rope(kind="llama3", theta=5e5, factor=8.0, original_max_positions=64)


# What published folders say beyond the keys of OLDER (or instead), and what is read from it.
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama 2 chat, first upload": ({"max_length": 4096, "pad_token_id": 0, "max_position_embeddings": 2048}, {}),
    "LLaMA 1, converted before max_position_embeddings": (
        {"max_position_embeddings": None, "max_sequence_length": 2048, "pad_token_id": -1, "pretraining_tp": None},
        {"max_positions": 2048},
    ),
    "Vicuna v1.5 16k": (
        {
            "max_sequence_length": 16384,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
            "_flash_attn_2_enabled": True,
        },
        {"max_positions": 4096, "rope": Rope(kind="linear", factor=4.0)},
    ),
    "Llama 3.1 Instruct": (
        {
            "attention_bias": False,
            "attention_dropout": 0.0,
            "eos_token_id": [128001, 128008, 128009],
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "unsloth_fixed": True,
            "unsloth_version": "2024.9.post3",
        },
        {"rope": Rope(kind="llama3", theta=5e5, factor=8.0, original_max_positions=8192), "max_positions": 131072},
    ),
    "SmolLM2": (
        {
            "is_llama_config": True,
            "rope_interleaved": False,
            "rope_theta": 130000,
            "tie_word_embeddings": True,
            "transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16"}},
        },
        {"rope": Rope(theta=130000), "tie_embeddings": True},
    ),
    "Falcon 3": ({"activation": "swiglu", "head_dim": 256, "rope_theta": 1000042}, {"head_dim": 256}),
    "Yi": ({"num_key_value_heads": 4, "rope_theta": 5000000.0}, {"num_kv_heads": 4}),
    "YaRN Llama 2": (
        {
            "auto_map": {"AutoModelForCausalLM": "modeling_llama_together_yarn.LlamaForCausalLM"},
            "rope_scaling": {
                "factor": 32.0,
                "finetuned": True,
                "original_max_position_embeddings": 4096,
                "type": "yarn",
            },
        },
        {"rope": Rope(kind="yarn", factor=32.0, original_max_positions=4096)},
    ),
    "a Qwen under Llama's names": (
        {"sliding_window": None, "use_sliding_window": False, "_flash_attn_2_enabled": True},
        {},
    ),
    "whole heads, said aloud": ({"partial_rotary_factor": 1.0}, {}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_published_folders_say_is_read(name: str) -> None:
    """Falcon 3 was refused for its key `activation`, and conversions of LLaMA 1 for their name of the context."""
    more, wanted = PUBLISHED[name]
    config = Config.from_hf(OLDER | more)
    assert {field: getattr(config, field) for field in wanted} == wanted


def test_every_default_of_transformers_may_be_spelt_out() -> None:
    """Tools that write `to_dict()` of older versions spell out how text is generated, which changes no weights."""
    LlamaConfig = pytest.importorskip("transformers").LlamaConfig

    older = {"num_beams": 1, "early_stopping": False, "length_penalty": 1.0, "no_repeat_ngram_size": 0}
    older |= {"pruned_heads": {}, "remove_invalid_values": False, "num_return_sequences": 1, "diversity_penalty": 0.0}
    spelt_out = LlamaConfig(hidden_size=64, num_attention_heads=8).to_dict() | older
    assert Config.from_hf(spelt_out).hidden_dim == 11008


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_given_back_and_transformers_reads_them(name: str) -> None:
    LlamaConfig = pytest.importorskip("transformers").LlamaConfig

    config = PRESETS[name]
    assert Config.from_hf(config.to_hf()) == config
    theirs = LlamaConfig(**config.to_hf())
    assert (theirs.head_dim, theirs.num_key_value_heads) == (config.head_dim, config.num_kv_heads)
    assert theirs.rope_parameters["rope_theta"] == config.rope.theta


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("TinyLlama-1.1B", 1_100_048_384),
        ("Llama-2-7b", 6_738_415_616),
        ("Llama-2-13b", 13_015_864_320),
        ("Llama-2-70b", 68_976_648_192),
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3-70B", 70_553_706_496),
        ("Llama-3.1-405B", 405_853_388_800),
        ("Llama-3.2-1B", 1_235_814_400),
        ("Llama-3.2-3B", 3_212_749_824),
        ("CodeLlama-7b", 6_738_546_688),
        ("CodeLlama-34b", 33_743_970_304),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"hidden_size": None}, "lacks the key 'hidden_size'"),
        ({"hidden_size": "64"}, "hidden_size .* whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers .* from 1"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized; use the unquantized"),
        ({"rms_norm_epsilon": 1e-6}, "'rms_norm_epsilon' = 1e-06, .* did you mean 'rms_norm_eps'"),
        ({"sliding_window": 4096}, "'sliding_window' = 4096"),
        ({"rope_interleaved": True}, "rope_interleaved = True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5.*whole heads"),
        ({"activation": "geglu"}, "activation = 'geglu'"),
        ({"quantization": {"bits": 4}}, "its weights are quantized"),
        ({"use_sliding_window": True}, "use_sliding_window = True"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "64 doesn't part into 7 heads"),
        ({"vocab_size": 2**31 - 1}, "the limit is 2\\^28"),
        ({"num_attention_heads": 2**30}, "doesn't part into"),
        ({"num_attention_heads": 2**30, "head_dim": 2}, "the limit is 2\\^28"),
        ({"rope_scaling": {"type": "mrope"}}, "rope_type 'mrope'"),
        ({"num_key_value_heads": 3}, "8 heads can't share 3 kv heads"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_named(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Config.from_hf(OLDER | change)


def test_a_config_cannot_be_changed_or_given_by_position() -> None:
    config = Config.from_hf(OLDER)
    with pytest.raises(AttributeError):
        config.dim = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        Config(100, 64)  # pyright: ignore[reportCallIssue]
