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
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor' = 0.5"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type 'longrope'"),
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
