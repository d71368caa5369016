"""DeepSeek-V3 against transformers, and the two ways of its attention against each other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import llm_blocks
from llm_blocks import testing
from llm_model_llama.deepseek_v3 import PRESETS, Config, Model, Router
from llm_model_llama.mla import Latent, LatentHeads

YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1}


FAMILY = testing.Family(
    model_type="deepseek_v3",
    unrecorded=("*",),
    models="DeepSeek-V3 and R1 (unquantized), Moonlight",
    features="latent attention with a cache of latents, shared and routed experts in groups, YaRN",
    base={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 56,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_shared_experts": 1,
        "n_routed_experts": 12,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
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
        "rope_theta": 10000.0,
        "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        "num_nextn_predict_layers": 1,
        "ep_size": 1,
        "seq_aux": True,
        "aux_loss_alpha": 0.001,
        "pretraining_tp": 1,
    },
    cases={
        "V3": {},
        "Moonlight": {
            "q_lora_rank": testing.NULL,
            "n_group": 1,
            "topk_group": 1,
            "n_shared_experts": 2,
            "routed_scaling_factor": 2.446,
            "rope_scaling": None,
            "rope_theta": 50000.0,
            "rms_norm_eps": 1e-5,
        },
        "halves, biases, wide values": {
            "rope_interleave": False,
            "attention_bias": True,
            "norm_topk_prob": False,
            "v_head_dim": 20,
            "rms_norm_eps": 1e-2,  # of all norms but those of latents
            "rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 0.9},
        },
        "dense, tied, wide latents, YaRN of its own": {
            "first_k_dense_replace": 3,
            "tie_word_embeddings": True,
            "kv_lora_rank": 40,
            "rope_scaling": YARN,
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"scoring_func": "softmax"},
        {"topk_method": "greedy"},
        {"use_mla": False},
        {"num_key_value_heads": 1},
        {"qk_head_dim": 16},
        {"qk_rope_head_dim": 3},
        {"n_group": 5},
        {"n_group": 12},
        {"topk_group": 5},
        {"num_experts_per_tok": 7},
        {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}},
    ],
)
TestDeepseekV3 = testing.suite(FAMILY)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> testing.Case:
    return FAMILY.make("V3", tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("seen", [6, 40])
@torch.inference_mode()
def test_both_ways_of_attention_give_the_same(seen: int) -> None:
    heads = LatentHeads(Latent(q_rank=None, kv_rank=16, still_dim=8, turned_dim=4, value_dim=12), 3)
    torch.nn.init.normal_(heads.weight, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for new in (1, 2, 6):
        still, turned = (torch.randn(2, 3, new, size, generator=generator) for size in (8, 4))
        memory = torch.randn(2, 1, seen, 20, generator=generator)
        cache = llm_blocks.KVCache(
            [0], batch=2, num_kv_heads=1, length=seen, head_dim=20, dtype=torch.float32, device="cpu"
        )
        cache.lengths[:] = [seen - new, seen - new - (seen > new)]
        plan = llm_blocks.plan_attention(2, new, counts=None, cache=cache, device=torch.device("cpu"))
        view = plan.views[None]
        ways = [
            way(still, turned, memory[:, :, : view.cached], view, scale=0.3) for way in (heads.expanded, heads.absorbed)
        ]
        assert_close(ways[0], ways[1], rtol=1e-5, atol=1e-5)


def test_released_sizes_absorb_for_decoding_and_expand_for_prompts() -> None:
    with torch.device("meta"):
        heads = LatentHeads(PRESETS["DeepSeek-V3"].latent, 128)
    assert heads.absorbing_is_cheaper(1, 4096)
    assert heads.absorbing_is_cheaper(8, 4096)
    assert not heads.absorbing_is_cheaper(1024, 4096)
    assert not heads.absorbing_is_cheaper(64, 64)
    assert not heads.absorbing_is_cheaper(1, 1)


def test_the_cache_keeps_one_latent_of_a_position_for_all_heads(case: testing.Case) -> None:
    cache = case.model.new_cache(2, 10)
    assert {tuple(keys.shape) for keys in cache.k.values()} == {(2, 1, 10, 16 + 4)}
    assert sum(values.numel() for values in cache.v.values()) == 0


def test_the_bias_sways_the_choice_and_not_the_weight() -> None:
    config = Config.from_hf(FAMILY.config("V3") | {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 1})
    config = Config.from_hf(config.to_hf() | {"norm_topk_prob": False, "routed_scaling_factor": 1.0})
    router = Router(config)
    torch.nn.init.zeros_(router.weight)
    with torch.no_grad():
        router.bias.copy_(torch.arange(12.0))
    weights, chosen = router(torch.randn(3, 32))
    assert chosen.tolist() == [[11]] * 3
    assert weights.tolist() == [[0.5]] * 3


@torch.inference_mode()
def test_groups_that_are_out_stay_out_where_biases_make_all_scores_negative() -> None:
    """A 0 for the experts of such groups, as older readers had it, would beat the rest then."""
    router = Router(Config.from_hf(FAMILY.config("V3")))
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(router.weight, generator=generator)
    torch.nn.init.zeros_(router.bias)
    tokens = torch.randn(50, 32, generator=generator)
    _, chosen = router(tokens)
    router.bias -= 5
    assert torch.equal(router(tokens)[1].sort().values, chosen.sort().values)


@torch.inference_mode()
def test_the_bias_decides_in_fp32_beside_weights_in_bf16() -> None:
    """Released biases are fp32; with the few digits of bf16 close ones are the same, and other experts are chosen."""
    router = Router(Config.from_hf(FAMILY.config("V3")))
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(router.weight, 0, 0.1, generator=generator)
    torch.nn.init.normal_(router.bias, 1, 0.02, generator=generator)
    router.weight.data = router.weight.data.bfloat16()
    tokens = torch.randn(200, 32, generator=generator).bfloat16()
    _, chosen = router(tokens)
    assert torch.equal(chosen, router.float()(tokens)[1])
    router.bias.data = router.bias.data.bfloat16()
    assert not torch.equal(chosen, router(tokens)[1])


def test_stacked_experts_are_the_same_as_one_by_one(case: testing.Case, tmp_path: Path) -> None:
    testing.check_stacked(case, tmp_path / "stacked")


def test_the_layer_that_predicts_a_second_token_is_left_out(tmp_path: Path) -> None:
    """Released files have model.layers.61.* after their 61 layers; transformers drops what is called so as well."""
    raw = FAMILY.config("V3") | {"num_hidden_layers": 61, "first_k_dense_replace": 60, "hidden_size": 8}
    case = testing.Case(family=FAMILY, folder=tmp_path, reference=testing.tiny_reference(raw, tmp_path))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    further = {name.replace(".60.", ".61."): each.clone() for name, each in tensors.items() if ".layers.60." in name}
    extra = ("enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight", "shared_head.head.weight")
    further |= {f"model.layers.61.{name}": torch.ones(3) for name in (*extra, "embed_tokens.weight")}
    save_file(tensors | further, file)
    ids = case.ids(1, 5)
    with torch.inference_mode():
        assert_close(case.model(ids), case.reference(ids, use_cache=False).logits, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_every_second_layer_may_be_dense(tmp_path: Path) -> None:
    """transformers passes over moe_layer_freq: it builds a mixture in every layer from the first sparse one on."""
    raw = FAMILY.config("V3") | {"moe_layer_freq": 2, "num_hidden_layers": 4}
    model = llm_blocks.new_model(Config.from_hf(raw))
    names = {name for name, _ in model.named_parameters() if "mlp.router" in name}
    assert names == {"mid.2.mlp.router.weight", "mid.2.mlp.router.bias"}
    llm_blocks.save(model, tmp_path / "saved")
    ids = torch.arange(9)[None]
    assert torch.equal(llm_blocks.load(tmp_path / "saved")(ids), model(ids))


@torch.inference_mode()
def test_without_routed_experts_all_layers_are_dense(tmp_path: Path) -> None:
    """null there means so in DeepSeek's own code; transformers wants a number, and reads what we write."""
    raw = {key: value for key, value in FAMILY.config("V3").items() if key not in ("num_experts_per_tok", "n_group")}
    config = Config.from_hf(raw | {"n_routed_experts": None, "n_shared_experts": None})
    assert config == Config.from_hf(json.loads(json.dumps(config.to_hf())))
    model = llm_blocks.new_model(config, std=0.1)
    testing.check_saved(model, tmp_path / "saved", torch.arange(9)[None])


@torch.inference_mode()
def test_without_shared_experts_only_the_routed_ones_add(case: testing.Case) -> None:
    model = Model(Config.from_hf(FAMILY.config("V3") | {"n_shared_experts": None}))
    weights = {name: tensor for name, tensor in case.model.state_dict().items() if ".shared." not in name}
    model.load_state_dict(weights)
    without = Model(case.model.config)
    without.load_state_dict(case.model.state_dict())
    for name, parameter in without.named_parameters():
        if ".shared.down." in name:
            parameter.zero_()
    ids = case.ids(2, 9)
    assert torch.equal(model(ids), without(ids))
