"""What config.json may say: the files as Microsoft published them, defaults of what they leave out, and refusals."""

from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import Rope
from llm_model_phi import phi, phi3, phimoe
from llm_model_phi.rotary import PHI_3_5_MINI, PHI_3_5_MOE, PHI_3_MINI_128K, PHI_4_MINI

PRESETS: dict[str, Any] = {**phi.PRESETS, **phi3.PRESETS, **phimoe.PRESETS}

PHI_2: dict[str, Any] = {
    "_name_or_path": "microsoft/phi-2",
    "architectures": ["PhiForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 50256,
    "embd_pdrop": 0.0,
    "eos_token_id": 50256,
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "phi",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "resid_pdrop": 0.1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.37.0",
    "use_cache": True,
    "vocab_size": 51200,
}
PHI_1: dict[str, Any] = PHI_2 | {
    "_name_or_path": "microsoft/phi-1",
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_key_value_heads": None,
    "partial_rotary_factor": 0.5,
    "resid_pdrop": 0.0,
}
PHI_3_4K: dict[str, Any] = {
    "_name_or_path": "Phi-3-mini-4k-instruct",
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
    "bos_token_id": 1,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "pad_token_id": 32000,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.2",
    "use_cache": True,
    "vocab_size": 32064,
}


def scaling(rope: Rope, kind: str = "longrope", **more: Any) -> dict[str, Any]:
    """The rope_scaling of a published file."""
    return {"type": kind, "short_factor": list(rope.short_factor), "long_factor": list(rope.long_factor), **more}


EXTENDED: dict[str, Any] = PHI_3_4K | {"max_position_embeddings": 131072, "sliding_window": 262144}
PHI_4: dict[str, Any] = PHI_3_4K | {
    "bos_token_id": 100257,
    "eos_token_id": 100265,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "original_max_position_embeddings": 16384,
    "pad_token_id": 100349,
    "rope_theta": 250000,
    "sliding_window": None,
    "vocab_size": 100352,
}
PHI_4_MINI_FILE: dict[str, Any] = EXTENDED | {
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "pad_token_id": 199999,
    "partial_rotary_factor": 0.75,
    "rope_scaling": scaling(PHI_4_MINI),
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
MOE: dict[str, Any] = {
    "_name_or_path": "Phi-3.5-MoE-instruct",
    "architectures": ["PhiMoEForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phimoe.PhiMoEConfig",
        "AutoModelForCausalLM": "modeling_phimoe.PhiMoEForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "input_jitter_noise": 0.01,
    "intermediate_size": 6400,
    "lm_head_bias": True,
    "max_position_embeddings": 131072,
    "model_type": "phimoe",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 16,
    "original_max_position_embeddings": 4096,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_scaling": scaling(
        PHI_3_5_MOE,
        long_mscale=1.243163121016122,
        short_mscale=1.243163121016122,
        original_max_position_embeddings=4096,
    ),
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.0,
    "router_jitter_noise": 0.01,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.3",
    "use_cache": True,
    "vocab_size": 32064,
}
TINY_MOE: dict[str, Any] = {key: value for key, value in MOE.items() if "rope_scaling" not in key} | {
    "auto_map": {
        "AutoConfig": "configuration_slimmoe.PhiMoEConfig",
        "AutoModelForCausalLM": "modeling_slimmoe.PhiMoEForCausalLM",
    },
    "expert_dropout": 0.0,
    "head_dim": 128,
    "intermediate_size": 448,
    "max_position_embeddings": 4096,
    "moe_intermediate_size": 448,
    "num_attention_heads": 16,
    "num_experts": 16,
    "num_key_value_heads": 4,
    "sliding_window": 2047,
}
del TINY_MOE["original_max_position_embeddings"]

PUBLISHED: dict[str, tuple[dict[str, Any], Any]] = {
    "phi-1": (PHI_1, phi.PRESETS["phi-1"]),
    "phi-1_5": (PHI_1 | {"_name_or_path": "microsoft/phi-1_5"}, phi.PRESETS["phi-1_5"]),
    "phi-2": (PHI_2, phi.PRESETS["phi-2"]),
    "Phi-3-mini-4k": (PHI_3_4K, phi3.PRESETS["Phi-3-mini-4k"]),
    "Phi-3-mini-128k": (EXTENDED | {"rope_scaling": scaling(PHI_3_MINI_128K)}, phi3.PRESETS["Phi-3-mini-128k"]),
    "Phi-3.5-mini": (EXTENDED | {"rope_scaling": scaling(PHI_3_5_MINI)}, phi3.PRESETS["Phi-3.5-mini"]),
    "Phi-4": (PHI_4, phi3.PRESETS["Phi-4"]),
    "Phi-4-reasoning": (
        PHI_4 | {"max_position_embeddings": 32768, "rope_theta": 500000},
        phi3.PRESETS["Phi-4-reasoning"],
    ),
    "Phi-4-mini": (PHI_4_MINI_FILE, phi3.PRESETS["Phi-4-mini"]),
    "Phi-3.5-MoE": (MOE, phimoe.PRESETS["Phi-3.5-MoE"]),
    "Phi-tiny-MoE": (TINY_MOE, phimoe.PRESETS["Phi-tiny-MoE"]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_what_the_published_file_says(name: str) -> None:
    raw, preset = PUBLISHED[name]
    assert llm_blocks.find(raw["model_type"]).Config.from_hf(raw) == preset


def test_the_first_files_with_longrope_call_it_su() -> None:
    """transformers 5 refuses these files: it looks for the trained length inside the rotary settings alone."""
    raw = EXTENDED | {"rope_scaling": scaling(PHI_3_5_MINI, "su")}
    assert phi3.Config.from_hf(raw) == phi3.PRESETS["Phi-3.5-mini"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("phi-1_5", 1_418_270_720),
        ("phi-2", 2_779_683_840),
        ("Phi-3-mini-4k", 3_821_079_552),
        ("Phi-3-medium-4k", 13_960_238_080),
        ("Phi-3.5-mini", 3_821_079_552),
        ("Phi-4", 14_659_507_200),
        ("Phi-4-mini", 3_836_021_760),
        ("Phi-3.5-MoE", 41_873_153_344),
        ("Phi-tiny-MoE", 3_755_220_288),
    ],
)
def test_presets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = llm_blocks.find(preset.model_type).Model(preset)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", PRESETS)
def test_transformers_reads_a_preset_as_we_do(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    preset = PRESETS[name]
    theirs = transformers.AutoConfig.for_model(**preset.to_hf())
    assert type(preset).from_hf(theirs.to_dict()) == preset


def test_a_share_that_a_phi_does_not_name_is_a_half() -> None:
    raw = {key: value for key, value in PHI_2.items() if key != "partial_rotary_factor"}
    assert phi.Config.from_hf(raw).rope.partial == 0.5
    inside = {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 1.0}
    whole = phi.Config.from_hf(raw | {"rope_parameters": inside})
    assert whole.rope.partial == 1.0
    assert phi.Config.from_hf(whole.to_hf()) == whole


def test_longrope_has_the_scale_of_the_paper_or_that_of_the_file() -> None:
    """A Phi-3 has sqrt(1 + ln(131072 / 4096) / ln(4096)) at every length; a phimoe's file says what it has."""
    assert llm_blocks.attention_scale(PHI_3_5_MINI, lengths=[1]) == pytest.approx(1.1902380714238083)
    assert llm_blocks.attention_scale(PHI_3_5_MOE, lengths=[4096, 4097]) == 1.243163121016122


@pytest.mark.parametrize(
    ("base", "change", "rule"),
    [
        (PHI_2, {"hidden_act": "gelu"}, "hidden_act = 'gelu'.*tanh"),
        (PHI_2, {"num_key_value_heads": 5}, "32 heads can't share 5 kv heads"),
        (PHI_2, {"head_dim": 64}, "32 heads of 64 dimensions must make up the width 2560"),
        (PHI_2, {"partial_rotary_factor": 0.02}, "0.02 of 80 must be an even number"),
        (PHI_2, {"partial_rotary_factor": 0.1, "num_attention_heads": 256}, "0.1 of 10"),
        (PHI_2, {"n_head": 32}, "'n_head' = 32"),
        (PHI_2, {"layer_norm_epsilon": 1e-6}, "'layer_norm_epsilon' = 1e-06, .* did you mean 'layer_norm_eps'"),
        (PHI_4_MINI_FILE, {"partial_rotary_factor": 0.5}, "needs 32 factors, .* got 48"),
        (PHI_4_MINI_FILE, {"full_attn_mod": 4}, "full_attn_mod = 4"),
        (PHI_4_MINI_FILE, {"quantization_config": {"bits": 4}}, "its weights are quantized"),
        (PHI_3_4K, {"rope_scaling": {"type": "yarn", "factor": 32.0}}, "default and longrope, not 'yarn'"),
        (PHI_3_4K, {"rope_scaling": scaling(PHI_3_5_MOE, short_mscale=1.2)}, "belong to a phimoe"),
        (PHI_3_4K, {"rope_scaling": scaling(PHI_3_5_MINI, long_mscales=[1.2])}, "'long_mscales'"),
        (PHI_3_4K, {"embd_layer": {"embedding_cls": "image"}}, "'embd_layer'"),
        (MOE, {"rope_scaling": scaling(PHI_3_5_MOE)}, "needs short_mscale and long_mscale"),
        (MOE, {"num_experts_per_tok": 4}, "num_experts_per_tok = 4.*chooses two experts"),
        (MOE, {"num_local_experts": 1}, "two or more, got 1"),
        (TINY_MOE, {"moe_intermediate_size": 960}, "moe_intermediate_size = 960.*agree with intermediate_size"),
        (TINY_MOE, {"num_experts": 8}, "num_experts = 8.*agree with num_local_experts"),
    ],
)
def test_what_cannot_be_honoured_is_refused_and_named(base: dict[str, Any], change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        llm_blocks.find(base["model_type"]).Config.from_hf(base | change)
