"""What config.json may say: published files, both spellings, defaults of older files, and what is refused."""

from typing import Any

import pytest
import torch

from llm_blocks import Rope
from llm_model_neox import gpt2, gpt_neox, gptj

PYTHIA: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "classifier_dropout": 0.1,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 512,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
SUMMARY: dict[str, Any] = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
GPT2: dict[str, Any] = SUMMARY | {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
GPTJ: dict[str, Any] = SUMMARY | {
    "activation_function": "gelu_new",
    "architectures": ["GPTJForCausalLM"],
    "attn_pdrop": 0.0,
    "bos_token_id": 50256,
    "embd_pdrop": 0.0,
    "eos_token_id": 50256,
    "gradient_checkpointing": False,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gptj",
    "n_embd": 4096,
    "n_head": 16,
    "n_inner": None,
    "n_layer": 28,
    "n_positions": 2048,
    "resid_pdrop": 0.0,
    "rotary": True,
    "rotary_dim": 64,
    "scale_attn_weights": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
    "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer",
    "transformers_version": "4.18.0.dev0",
    "use_cache": True,
    "vocab_size": 50400,
}
FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt_neox": (gpt_neox, PYTHIA),
    "gpt2": (gpt2, GPT2),
    "gptj": (gptj, GPTJ),
}


def test_the_released_files_are_the_presets() -> None:
    assert gpt_neox.Config.from_hf(PYTHIA) == gpt_neox.PRESETS["pythia-70m"]
    assert gpt2.Config.from_hf(GPT2) == gpt2.PRESETS["gpt2"]
    assert gptj.Config.from_hf(GPTJ) == gptj.PRESETS["gpt-j-6b"]


# What published folders say beyond the keys of the file above (or instead), and what is read from it.
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Pythia, saved again by transformers 4.46": (
        "gpt_neox",
        {
            "attention_bias": True,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "partial_rotary_factor": 0.25,
            "rope_scaling": None,
            "rope_theta": 10000,
        },
        {"rope": Rope(partial=0.25), "attention_bias": True},
    ),
    "GPT-NeoX-20B": (
        "gpt_neox",
        {
            "attention_probs_dropout_prob": 0,
            "hidden_act": "gelu_fast",
            "hidden_dropout_prob": 0,
            "use_parallel_residual": None,
        },
        {"activation": "gelu_fast", "parallel_residual": True},
    ),
    "Dolly v2": (
        "gpt_neox",
        {
            "_name_or_path": "EleutherAI/pythia-2.8b",
            "custom_pipelines": {
                "text-generation": {
                    "impl": "instruct_pipeline.InstructionTextGenerationPipeline",
                    "pt": "AutoModelForCausalLM",
                    "tf": "TFAutoModelForCausalLM",
                }
            },
            "gradient_checkpointing": False,
            "vocab_size": 50280,
        },
        {"vocab_size": 50280},
    ),
    "RedPajama-INCITE": (
        "gpt_neox",
        {"rotary_pct": 1.0, "use_parallel_residual": False, "vocab_size": 50432},
        {"rope": Rope(), "parallel_residual": False},
    ),
    "Polyglot-Ko": (
        "gpt_neox",
        {"num_steps": "global_step320000", "rotary_pct": 0.5, "vocab_size": 30080},
        {"rope": Rope(partial=0.5)},
    ),
    "positions interpolated": (
        "gpt_neox",
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rotary_pct": 1.0},
        {"rope": Rope(kind="linear", factor=4.0)},
    ),
    "older than every key that has a default": (
        "gpt_neox",
        {"layer_norm_eps": None, "rotary_pct": None, "rotary_emb_base": None, "tie_word_embeddings": None},
        {"rope": Rope(partial=0.25), "norm_eps": 1e-5, "tie_embeddings": False},
    ),
    "gpt2-medium": (
        "gpt2",
        {"n_embd": 1024, "n_head": 16, "n_layer": 24, "n_special": 0, "predict_special_tokens": True},
        {"dim": 1024, "hidden_dim": 4096, "tie_embeddings": True},
    ),
    "gpt2-large": ("gpt2", {"n_embd": 1280, "n_head": 20, "n_layer": 36, "output_past": True}, {"head_dim": 64}),
    "DistilGPT2": (
        "gpt2",
        {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "n_layer": 6},
        {"num_layers": 6},
    ),
    "Cerebras-GPT": (
        "gpt2",
        {
            "activation_function": "gelu",
            "n_inner": 3072,
            "n_positions": 2048,
            "reorder_and_upcast_attn": False,
            "scale_attn_by_inverse_layer_idx": False,
            "scale_attn_weights": True,
        },
        {"activation": "gelu", "hidden_dim": 3072, "max_positions": 2048, "scale_attention": True},
    ),
    "BioMedLM": (
        "gpt2",
        {
            "n_embd": 2560,
            "n_head": 20,
            "n_inner": None,
            "reorder_and_upcast_attn": True,
            "scale_attn_by_inverse_layer_idx": True,
            "vocab_size": 28896,
        },
        {"scale_by_layer": True, "upcast_attention": True, "hidden_dim": 10240},
    ),
    "nothing said of rotary": (
        "gptj",
        {"rotary": None, "rotary_dim": 64, "n_ctx": 2048},
        {"rotary_dim": 64},
    ),
    "whole heads": ("gptj", {"rotary_dim": None}, {"rotary_dim": 256}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_published_folders_say_is_read(name: str) -> None:
    model_type, more, wanted = PUBLISHED[name]
    architecture, file = FILES[model_type]
    config = architecture.Config.from_hf(file | more)
    assert {field: getattr(config, field) for field in wanted} == wanted


def test_rotary_keys_of_other_families_are_honoured() -> None:
    """transformers 5 passes over them without a word, and takes a base of 10000 and a quarter of each head."""
    file = {key: value for key, value in PYTHIA.items() if not key.startswith("rotary_")}
    config = gpt_neox.Config.from_hf(file | {"rope_theta": 25000.0, "partial_rotary_factor": 0.5})
    assert config.rope == Rope(theta=25000.0, partial=0.5)


def test_a_share_of_one_is_written_down() -> None:
    """Left out, as for other families, it would be read as a quarter."""
    whole = gpt_neox.Config.from_hf(PYTHIA | {"rotary_pct": 1.0})
    assert whole.rope.partial == 1
    assert gpt_neox.Config.from_hf(whole.to_hf()) == whole
    GPTNeoXConfig = pytest.importorskip("transformers").GPTNeoXConfig
    assert GPTNeoXConfig(**whole.to_hf()).rope_parameters["partial_rotary_factor"] == 1


@pytest.mark.parametrize(
    ("model_type", "change", "rule"),
    [
        ("gpt_neox", {"hidden_size": None}, "lacks the key 'hidden_size'"),
        ("gpt_neox", {"hidden_act": "relu"}, "activation must be one of gelu, .*, got 'relu'"),
        ("gpt_neox", {"num_attention_heads": 7}, "512 doesn't part into 7 heads"),
        ("gpt_neox", {"rotary_pct": 0.02}, "0.02 of 64 must be an even number of them"),
        ("gpt_neox", {"rotary_pct": 1.01}, "must be above 0 and at most 1, got 1.01"),
        ("gpt_neox", {"rotary_pct": "0.25"}, "rotary_pct in config.json must be a number, got"),
        ("gpt_neox", {"rope_theta": 20000}, "rotary_emb_base is 10000, but .* say 20000"),
        ("gpt_neox", {"partial_rotary_factor": 1.0}, "rotary_pct is 0.25, but .* say 1.0"),
        ("gpt_neox", {"rope_scaling": ["linear"]}, "rope_scaling in config.json must be an object"),
        ("gpt_neox", {"use_parallel_residual": 1}, "use_parallel_residual in config.json must be true or false"),
        ("gpt_neox", {"rotary_pcnt": 0.25}, "'rotary_pcnt' = 0.25, .* did you mean 'rotary_pct'"),
        ("gpt_neox", {"quantization_config": {"bits": 4}}, "its weights are quantized; use the unquantized"),
        ("gpt2", {"n_positions": None}, "lacks the key 'n_positions'"),
        ("gpt2", {"activation_function": "quick_gelu"}, "got 'quick_gelu'"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention = True.*no encoder"),
        ("gpt2", {"n_head": 5}, "768 doesn't part into 5 heads"),
        ("gpt2", {"attention_head_type": "multiquery"}, "'attention_head_type' = 'multiquery', .* not supported"),
        ("gpt2", {"scale_attn_by_inverse_layer": True}, "did you mean 'scale_attn_by_inverse_layer_idx'"),
        ("gptj", {"rotary_dim": 258}, "even number from 2 to the head size 256, got 258"),
        ("gptj", {"rotary_dim": 63}, "even number from 2 to the head size 256, got 63"),
        ("gptj", {"rotary": False}, "rotary = False.*turning its heads"),
        ("gptj", {"scale_attn_weights": False}, "scale_attn_weights = False.*root of the head size"),
        ("gptj", {"activation_function": "x" * 1000}, "got 'x{100}'$"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_named(model_type: str, change: dict[str, Any], rule: str) -> None:
    architecture, file = FILES[model_type]
    with pytest.raises(ValueError, match=rule):
        architecture.Config.from_hf(file | change)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pythia-14m", 14_067_712),
        ("pythia-31m", 30_494_720),
        ("pythia-70m", 70_426_624),
        ("pythia-160m", 162_322_944),
        ("pythia-410m", 405_334_016),
        ("pythia-1b", 1_011_781_632),
        ("pythia-1.4b", 1_414_647_808),
        ("pythia-2.8b-deduped", 2_775_208_960),
        ("pythia-6.9b", 6_857_302_016),
        ("pythia-12b", 11_846_072_320),
        ("gpt-neox-20b", 20_554_567_680),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
        ("gpt-j-6b", 6_050_882_784),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    architecture = next(each for each in (gpt_neox, gpt2, gptj) if name in each.PRESETS)
    with torch.device("meta"):
        model = architecture.Model(architecture.PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("model_type", FILES)
def test_transformers_reads_the_presets(model_type: str) -> None:
    CONFIG_MAPPING = pytest.importorskip("transformers").CONFIG_MAPPING

    for config in FILES[model_type][0].PRESETS.values():
        theirs = CONFIG_MAPPING[model_type](**config.to_hf())
        assert (theirs.hidden_size, theirs.num_hidden_layers) == (config.dim, config.num_layers)
        assert (theirs.num_attention_heads, theirs.max_position_embeddings) == (config.num_heads, config.max_positions)
