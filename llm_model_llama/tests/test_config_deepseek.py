"""What is read from the config.json of released DeepSeek models, as their repositories have it."""

from typing import Any

import pytest

from llm_blocks import Rope
from llm_model_llama import deepseek_v2, deepseek_v3
from llm_model_llama.mla import Latent, softmax_scale

FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}

COMMON: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "kv_lora_rank": 512,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
}


def yarn(mscale: float, factor: float = 40) -> dict[str, Any]:
    length = {"original_max_position_embeddings": 4096}
    return (
        length
        | {"type": "yarn", "factor": factor, "beta_fast": 32, "beta_slow": 1}
        | {
            "mscale": mscale,
            "mscale_all_dim": mscale,
        }
    )


V3: dict[str, Any] = COMMON | {
    "architectures": ["DeepseekV3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
    "bos_token_id": 0,
    "eos_token_id": 1,
    "first_k_dense_replace": 3,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "rope_scaling": yarn(1.0),
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "transformers_version": "4.33.1",
    "vocab_size": 129280,
}

MOONLIGHT: dict[str, Any] = V3 | {
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 11264,
    "max_position_embeddings": 8192,
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": None,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 50000.0,
    "routed_scaling_factor": 2.446,
    "topk_group": 1,
    "vocab_size": 163840,
}

V2_LITE: dict[str, Any] = COMMON | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV2Config"},
    "bos_token_id": 100000,
    "eos_token_id": 100001,
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "max_position_embeddings": 163840,
    "model_type": "deepseek_v2",
    "moe_intermediate_size": 1408,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "rope_scaling": yarn(0.707),
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "topk_group": 1,
    "topk_method": "greedy",
    "transformers_version": "4.33.1",
    "vocab_size": 102400,
}

V2: dict[str, Any] = V2_LITE | {
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}


@pytest.mark.parametrize(
    ("raw", "preset"), [(V3, "DeepSeek-V3"), (V3, "DeepSeek-R1"), (MOONLIGHT, "Moonlight-16B-A3B")]
)
def test_released_files_of_v3_are_the_presets(raw: dict[str, Any], preset: str) -> None:
    assert deepseek_v3.Config.from_hf(raw) == deepseek_v3.PRESETS[preset]


@pytest.mark.parametrize(
    ("raw", "preset"), [(V2, "DeepSeek-V2"), (V2_LITE, "DeepSeek-V2-Lite"), (V2_LITE, "DeepSeek-Coder-V2-Lite")]
)
def test_released_files_of_v2_are_the_presets(raw: dict[str, Any], preset: str) -> None:
    assert deepseek_v2.Config.from_hf(raw) == deepseek_v2.PRESETS[preset]


def test_files_in_fp8_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"quantization_config = .*fp8.* use the unquantized checkpoint"):
        deepseek_v3.Config.from_hf(V3 | {"quantization_config": FP8})


def test_a_file_of_another_architecture_by_its_name_alone_is_read() -> None:
    """Kimi-K2 calls itself kimi_k2 and is a DeepSeek-V3 throughout; its makers advise to change that key by hand."""
    kimi = {"num_attention_heads": 64, "num_key_value_heads": 64, "n_routed_experts": 384, "first_k_dense_replace": 1}
    kimi |= {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827, "rope_theta": 50000.0}
    slow = {"beta_fast": 1.0, "beta_slow": 1.0}
    config = deepseek_v3.Config.from_hf(V3 | kimi | {"rope_scaling": yarn(1.0, 32.0) | slow})
    assert (config.num_heads, config.num_experts, config.num_groups, config.dense_layers) == (64, 384, 1, 1)
    assert config.rope == Rope(
        kind="yarn",
        theta=50_000.0,
        factor=32.0,
        original_max_positions=4096,
        beta_fast=1.0,
        beta_slow=1.0,
        mscale=1.0,
        mscale_all_dim=1.0,
    )


@pytest.mark.parametrize(("module", "raw"), [(deepseek_v3, V3), (deepseek_v2, V2)])
def test_a_rank_of_the_queries_that_is_absent_is_not_one_that_is_null(module: Any, raw: dict[str, Any]) -> None:
    absent = {key: value for key, value in raw.items() if key != "q_lora_rank"}
    assert module.Config.from_hf(absent).latent == Latent(
        q_rank=1536, kv_rank=512, still_dim=128, turned_dim=64, value_dim=128
    )
    assert module.Config.from_hf(raw | {"q_lora_rank": None}).latent.q_rank is None


@pytest.mark.parametrize(("module", "raw"), [(deepseek_v3, V3), (deepseek_v2, V2)])
@pytest.mark.parametrize("key", ["n_routed_experts", "n_shared_experts"])
def test_a_number_of_experts_that_is_absent_is_ambiguous(module: Any, raw: dict[str, Any], key: str) -> None:
    """DeepSeek's own code takes that for none, transformers for the number of one of its models."""
    with pytest.raises(ValueError, match=f"lacks the key '{key}'"):
        module.Config.from_hf({name: value for name, value in raw.items() if name != key})


def test_greedy_choice_passes_over_groups() -> None:
    config = deepseek_v2.Config.from_hf(V2 | {"topk_method": "greedy"})
    assert (config.num_groups, config.groups_per_token) == (1, 1)
    assert config.to_hf()["topk_method"] == "greedy"
    assert deepseek_v2.PRESETS["DeepSeek-V2"].to_hf()["topk_method"] == "group_limited_greedy"


def test_the_softmax_scale_follows_the_scale_of_yarn() -> None:
    """Whatever the length of a text: by its factor of 40, DeepSeek-V3 multiplies scores by (0.1 ln 40 + 1)^2 more."""
    assert softmax_scale(deepseek_v3.PRESETS["DeepSeek-V3"].rope, 192) * 192**0.5 == pytest.approx(1.8738542, rel=1e-6)
    assert softmax_scale(deepseek_v3.PRESETS["Moonlight-16B-A3B"].rope, 192) == 192**-0.5
