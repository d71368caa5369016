"""What config.json may say: files as published before and after transformers knew the family, and what is refused."""

from typing import Any

import pytest
import torch

from llm_blocks import Rope
from llm_model_falcon import NAMES, PRESETS, Config, Model

COMMON: dict[str, Any] = {  # what the files of every size say
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "bos_token_id": 11,
    "eos_token_id": 11,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.27.4",
    "use_cache": True,
    "vocab_size": 65024,
}
FIRST: dict[str, Any] = COMMON | {
    "architectures": ["RWForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_RW.RWConfig", "AutoModelForCausalLM": "modelling_RW.RWForCausalLM"},
}
TODAY: dict[str, Any] = COMMON | {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}
RW: dict[str, Any] = {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False, "vocab_size": 50304}

PUBLISHED: dict[str, tuple[dict[str, Any], str]] = {
    "7B, first upload": (
        FIRST
        | {"model_type": "RefinedWebModel", "hidden_size": 4544, "multi_query": True, "n_head": 71, "n_layer": 32},
        "falcon-7b",
    ),
    "7B": (
        TODAY
        | {
            "hidden_size": 4544,
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
        },
        "falcon-7b",
    ),
    "7B, as transformers writes it out, with as many kv heads as heads": (
        TODAY
        | {
            "hidden_size": 4544,
            "multi_query": True,
            "new_decoder_architecture": False,
            "num_attention_heads": 71,
            "num_hidden_layers": 32,
            "num_kv_heads": 71,
        },
        "falcon-7b",
    ),
    "40B, first upload": (
        FIRST | {"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60},
        "falcon-40b",
    ),
    "40B Instruct": (
        TODAY
        | {
            "_name_or_path": "tiiuae/falcon-40b-instruct",
            "hidden_size": 8192,
            "multi_query": True,
            "new_decoder_architecture": True,
            "num_attention_heads": 128,
            "num_hidden_layers": 60,
            "num_kv_heads": 8,
        },
        "falcon-40b",
    ),
    "180B": (
        TODAY
        | {
            "hidden_size": 14848,
            "multi_query": True,
            "new_decoder_architecture": True,
            "num_attention_heads": 232,
            "num_hidden_layers": 80,
            "num_kv_heads": 8,
        },
        "falcon-180B",
    ),
    "RW 1B, first upload": (
        FIRST | RW | {"model_type": "RefinedWebModel", "hidden_size": 2048, "n_head": 32, "n_layer": 24},
        "falcon-rw-1b",
    ),
    "RW 1B": (
        TODAY
        | RW
        | {
            "hidden_size": 2048,
            "new_decoder_architecture": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 24,
        },
        "falcon-rw-1b",
    ),
    "Falcon2 11B": (
        TODAY
        | {
            "activation": "gelu",
            "ff_factor": 4,
            "ffn_hidden_size": 16384,
            "hidden_size": 4096,
            "max_position_embeddings": 8192,
            "multi_query": True,
            "new_decoder_architecture": True,
            "num_attention_heads": 32,
            "num_hidden_layers": 60,
            "num_kv_heads": 8,
            "num_ln_in_parallel_attn": 1,
            "rope_scaling": None,
            "rope_theta": 500042.0,
            "tie_word_embeddings": False,
        },
        "falcon-11B",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_give_their_preset(name: str) -> None:
    raw, preset = PUBLISHED[name]
    assert Config.from_hf(raw) == PRESETS[preset]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("falcon-7b", 6_921_720_704),
        ("falcon-40b", 41_303_293_952),
        ("falcon-180B", 178_557_088_768),
        ("falcon-rw-1b", 1_311_625_216),
        ("falcon-rw-7b", 7_516_020_736),
        ("falcon-11B", 11_102_822_400),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    """A tied head counts once; some tools count it twice, as the files of the first uploads held it."""
    with torch.device("meta"):
        model = Model(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", PRESETS)
def test_transformers_makes_the_same_tensors_of_a_preset(name: str) -> None:
    transformers = pytest.importorskip("transformers")

    raw = PRESETS[name].to_hf() | {"num_hidden_layers": 1}
    with torch.device("meta"):
        theirs = transformers.FalconForCausalLM(transformers.FalconConfig(**raw))
        ours = Model(Config.from_hf(raw)).state_dict()
    wanted = {key.replace(".0.", ".{i}."): value.shape for key, value in theirs.state_dict().items()}
    assert {NAMES[key].replace("{i}", "0"): shape for key, shape in wanted.items()} == {
        key: value.shape for key, value in ours.items()
    }


def test_what_a_file_leaves_out_is_as_in_transformers() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = Config.from_hf(sizes | {"model_type": "falcon"})
    assert (config.num_kv_heads, config.layout, config.hidden_dim, config.max_positions) == (
        1,
        "shared_norm",
        128,
        2048,
    )
    assert (config.tie_embeddings, config.bias, config.rope, config.norm_eps) == (True, False, Rope(), 1e-5)


def test_files_with_their_own_code_must_say_what_transformers_takes_otherwise() -> None:
    """Their code took a missing multi_query as false, transformers takes it as true: a guess may misread weights."""
    raw = {key: value for key, value in PUBLISHED["7B, first upload"][0].items() if key != "multi_query"}
    with pytest.raises(ValueError, match="lacks the key 'multi_query'"):
        Config.from_hf(raw)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"model_type": "falcon_mamba"}, "model_type = 'falcon_mamba'.*isn't a Falcon"),
        ({"hidden_size": None}, "lacks the key 'hidden_size'"),
        ({"num_hidden_layers": None}, "lacks the key 'num_hidden_layers'"),
        ({"n_layer": 31}, "num_hidden_layers = 32 and n_layer = 31"),
        ({"n_head_kv": 8, "num_kv_heads": 4}, "num_kv_heads = 4 and n_head_kv = 8"),
        ({"hidden_size": 4545}, "4545 doesn't part into 71 heads"),
        ({"hidden_size": 71}, "size must be even, got 1"),
        ({"new_decoder_architecture": True, "num_kv_heads": 8}, "71 heads can't share 8 kv heads"),
        ({"multi_query": False, "num_kv_heads": 1}, "1 of 71, which needs new_decoder_architecture"),
        ({"new_decoder_architecture": True, "parallel_attn": False}, "always parallel"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn is 2"),
        ({"activation": "relu"}, "activation = 'relu'.*exact GELU"),
        ({"ff_factor": 2}, "ff_factor = 2.*18176 wide"),
        ({"alibi": "yes"}, "true or false"),
        ({"layer_norm_eps": 1e-6}, "'layer_norm_eps'.*did you mean 'layer_norm_epsilon'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "its weights are quantized"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_named(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Config.from_hf(PUBLISHED["7B"][0] | change)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"layout": "parallel"}, "layout must be one of shared_norm, two_norms, sequential"),
        ({"layout": "sequential", "num_kv_heads": 2}, "1 or all 4 kv heads, got 2"),
    ],
)
def test_a_config_made_by_hand_is_checked_as_well(change: dict[str, Any], rule: str) -> None:
    sizes: dict[str, Any] = {"vocab_size": 97, "dim": 32, "hidden_dim": 64, "num_layers": 2, "num_heads": 4}
    sizes |= {"num_kv_heads": 1, "max_positions": 64, "layout": "shared_norm"}
    with pytest.raises(ValueError, match=rule):
        Config(**(sizes | change))
