"""DeepSeek-V2 against transformers."""

import json
from pathlib import Path

import pytest
import torch

import llm_blocks
from llm_blocks import testing
from llm_model_llama.deepseek_v2 import Config

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}
GROUPS = {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "routed_scaling_factor": 16.0}


FAMILY = testing.Family(
    model_type="deepseek_v2",
    unrecorded=("*",),
    models="DeepSeek-V2, V2-Lite, V2.5, Coder-V2",
    features="latent attention with a cache of latents, shared and routed experts, in groups or not, YaRN",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_shared_experts": 2,
        "n_routed_experts": 12,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "rope_theta": 10000,
        "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        "ep_size": 1,
        "seq_aux": True,
        "aux_loss_alpha": 0.001,
        "pretraining_tp": 1,
    },
    cases={
        "V2-Lite": {"q_lora_rank": testing.NULL},
        "V2, biases": GROUPS | {"attention_bias": True},
        "wide values, one group of three": GROUPS
        | {
            "n_group": 3,
            "topk_group": 1,
            "v_head_dim": 20,
            "n_shared_experts": 1,
            "rms_norm_eps": 1e-2,  # of all norms but those of latents
            "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
        },
        "no groups, all sparse, tied": {
            "n_group": None,
            "topk_group": None,
            "topk_method": None,
            "first_k_dense_replace": 0,
            "tie_word_embeddings": True,
            "kv_lora_rank": 40,
            "rope_scaling": None,
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"mlp_bias": True},
        {"scoring_func": "sigmoid"},
        {"topk_method": "noaux_tc"},
        {"norm_topk_prob": True},
        {"use_mla": False},
        {"num_key_value_heads": 1},
        {"num_experts_per_tok": 13},
        GROUPS | {"n_group": 5},
        GROUPS | {"topk_group": 5},
        GROUPS | {"n_group": None},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
)
TestDeepseekV2 = testing.suite(FAMILY)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> testing.Case:
    return FAMILY.make("V2-Lite", tmp_path_factory.mktemp("reference"))


def test_stacked_experts_are_the_same_as_one_by_one(case: testing.Case, tmp_path: Path) -> None:
    testing.check_stacked(case, tmp_path / "stacked")


@torch.inference_mode()
def test_without_routed_experts_all_layers_are_dense(tmp_path: Path) -> None:
    """null there means so in DeepSeek's own code; transformers wants a number, and reads what we write."""
    config = Config.from_hf(FAMILY.config("V2-Lite") | {"n_routed_experts": None, "num_experts_per_tok": None})
    assert config == Config.from_hf(json.loads(json.dumps(config.to_hf())))
    model = llm_blocks.new_model(config, std=0.1)
    testing.check_saved(model, tmp_path / "saved", torch.arange(9)[None])
