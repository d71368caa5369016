"""What is said of each family for llama.cpp: the released sizes, the changes of weights, and what can't be said."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import llm_blocks
from llm_blocks import Rope, gguf_form, pairs_to_halves
from llm_blocks.gguf import GROUP
from llm_model_llama.gguf import to_pairs

FAMILIES = [entry.name for entry in entry_points(group=GROUP) if entry.value.startswith("llm_model_llama.")]
REFUSED = {"DeepSeek-V2": "groups of experts by their two best"}


def presets(model_type: str) -> dict[str, Any]:
    return llm_blocks.find(model_type).PRESETS


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_released_size_can_be_written(model_type: str) -> None:
    for name, config in presets(model_type).items():
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]):
                gguf_form(config)
            continue
        form = gguf_form(config)
        assert form.values["block_count"] == config.num_layers
        assert form.values["vocab_size"] == config.vocab_size
        assert form.values["rope.freq_base"] == config.rope.theta


@pytest.mark.parametrize(
    ("model_type", "preset", "values"),
    [
        (
            "llama",
            "Llama-3.2-1B",
            {"attention.head_count_kv": 8, "rope.dimension_count": 64, "context_length": 131_072},
        ),
        ("mixtral", next(iter(presets("mixtral"))), {"expert_count": 8, "expert_used_count": 2}),
        ("gemma2", "gemma-2-27b", {"attention.sliding_window": 4096, "final_logit_softcapping": 30.0}),
        ("gemma3_text", "gemma-3-27b", {"attention.sliding_window": 1024, "rope.freq_base_swa": 10_000.0}),
        ("olmo", "OLMo-7B-0724", {"attention.clamp_kqv": 8.0, "attention.layer_norm_epsilon": 1e-5}),
        ("stablelm", "stablelm-2-12b", {"rope.dimension_count": 40, "attention.head_count_kv": 8}),
        ("granite", "granite-3.3-2b-instruct", {"attention.scale": 1 / 64, "logit_scale": 8.0, "residual_scale": 0.22}),
        ("qwen3_moe", "Qwen3-30B-A3B", {"expert_feed_forward_length": 768, "expert_used_count": 8}),
        (
            "deepseek_v3",
            "DeepSeek-V3",
            {
                "attention.head_count_kv": 1,
                "attention.key_length": 576,
                "attention.value_length": 512,
                "attention.key_length_mla": 192,
                "attention.q_lora_rank": 1536,
                "leading_dense_block_count": 3,
                "expert_group_count": 8,
                "expert_group_used_count": 4,
                "expert_weights_norm": True,
                "expert_weights_scale": 2.5,
                "rope.scaling.yarn_log_multiplier": 0.1,
            },
        ),
        ("deepseek_v2", "DeepSeek-V2-Lite", {"attention.q_lora_rank": 0, "expert_shared_count": 2}),
    ],
)
def test_released_models_have_the_metadata_of_their_architecture(
    model_type: str, preset: str, values: dict[str, Any]
) -> None:
    form = gguf_form(presets(model_type)[preset])
    assert {key: form.values[key] for key in values} == values


def any_of(model_type: str, **changes: Any) -> Any:
    return replace(next(iter(presets(model_type).values())), **changes)


LATENT = next(iter(presets("deepseek_v3").values())).latent


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (any_of("llama", rope=Rope(kind="dynamic", factor=2.0, original_max_positions=64)), "dynamic rotary"),
        (any_of("qwen2", rope=Rope(kind="llama3", factor=2.0, original_max_positions=64)), "of the kind llama3"),
        (any_of("qwen2", head_dim=32), "the heads to make up the width"),
        (any_of("qwen2_moe", normalize_shares=True), "norm_topk_prob is true"),
        (any_of("qwen2_moe", dense_layers=frozenset({3})), "experts in every layer here, and layer 3 has none"),
        (any_of("qwen3", attention_bias=True), "no biases for the attention"),
        (any_of("qwen3_moe", normalize_shares=False), "norm_topk_prob is false"),
        (any_of("qwen3_moe", sparse_step=2), "layer 0 has none"),
        (any_of("gemma", tie_embeddings=False), "the embedding as the head"),
        (any_of("gemma2", attention_cap=None), "always caps the scores"),
        (any_of("gemma2", attention_scalar=128), "the root of 256 .* query_pre_attn_scalar is 128"),
        (any_of("gemma3_text", attention_cap=50.0), "doesn't cap the scores"),
        (any_of("gemma3_text", attention_scalar=64), "query_pre_attn_scalar is 64"),
        (any_of("gemma3_text", local_rope=Rope(kind="linear", factor=2.0)), "evenly at most, not default and linear"),
        (any_of("olmo", attention_bias=True), "no biases for the attention"),
        (any_of("olmo2", attention_bias=True), "no biases for the attention"),
        (any_of("smollm3", rope_layers=(True,) * 36), "all layers but each fourth"),
        (any_of("smollm3", mlp_bias=True), "no biases for a SmolLM3"),
        (any_of("deepseek_v3", interleaved=False), "rope_interleave is false"),
        (any_of("deepseek_v3", num_shared_experts=0), "some of them shared"),
        (any_of("deepseek_v3", num_layers=27), "27 layers to have no latents of queries"),
        (any_of("deepseek_v3", attention_bias=True), "no biases for the attention"),
        (
            any_of("deepseek_v3", rope=Rope(kind="yarn", factor=4.0, original_max_positions=64, mscale=1.0)),
            "mscale and mscale_all_dim are alike",
        ),
    ],
)
def test_what_llama_cpp_can_not_express_is_refused(config: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"can't be written as GGUF: .*{why}"):
        gguf_form(config)


def test_a_tower_for_text_is_written_as_a_gemma_3_of_its_own() -> None:
    config = presets("gemma3_text")["gemma-3-4b"]
    assert gguf_form(config).architecture == "gemma3"
    assert type(config) is llm_blocks.find("gemma3").Config


def test_rows_in_pairs_turn_as_halves_did() -> None:
    """Neighbours brought back to halves are the heads of before, of weights and of biases."""
    weight, x = torch.randn(24, 10), torch.randn(3, 10)
    heads = (x @ weight.T).unflatten(-1, (3, 8))
    turned = (x @ to_pairs(3)(weight).T).unflatten(-1, (3, 8))
    assert torch.equal(pairs_to_halves(turned), heads)
    assert to_pairs(1)(torch.arange(6)).tolist() == [0, 3, 1, 4, 2, 5]


def test_a_gemma_multiplies_by_1_more() -> None:
    change = gguf_form(any_of("gemma")).changes["*norm.weight"]
    assert callable(change)
    assert torch.equal(change(torch.tensor([-0.5, 0.25], dtype=torch.bfloat16)), torch.tensor([0.5, 1.25]))


def test_the_matrix_of_latents_is_keys_and_values_apart() -> None:
    """Scores and results by the parts are those by the whole: keys absorbed into queries, values out of latents."""
    config = any_of("deepseek_v3", num_heads=2, latent=replace(LATENT, kv_rank=5, still_dim=3, value_dim=4))
    parts = gguf_form(config).changes["*.kv_b_proj.weight"]
    assert not callable(parts)
    whole, latents = torch.randn(2 * 7, 5), torch.randn(6, 5)
    k, v = (latents @ whole.T).unflatten(-1, (2, 7)).split([3, 4], dim=-1)  # (S, H, …)
    k_b, v_b = parts["k_b_proj"](whole), parts["v_b_proj"](whole)
    q = torch.randn(2, 3)
    absorbed = torch.einsum("hrn,hn->hr", k_b, q)
    assert torch.allclose(absorbed @ latents.T, torch.einsum("shn,hn->hs", k, q), atol=1e-5)
    assert torch.allclose(torch.einsum("hvr,sr->shv", v_b, latents), v, atol=1e-5)


def test_norms_of_latents_have_an_epsilon_of_their_own() -> None:
    """llama.cpp has one for all: what goes into them is larger instead, but for the dimensions that turn."""
    config = any_of("deepseek_v3", norm_eps=1e-5, latent=replace(LATENT, kv_rank=6, turned_dim=2))
    change = gguf_form(config).changes["*.kv_a_proj_with_mqa.weight"]
    assert callable(change)
    weight, x = torch.randn(8, 5), torch.randn(3, 5) * 1e-3  # so small that epsilon counts
    before, after = x @ weight.T, x @ change(weight).T
    assert torch.allclose(
        F.rms_norm(after[:, :6], (6,), eps=1e-5), F.rms_norm(before[:, :6], (6,), eps=1e-6), atol=1e-6
    )
    assert torch.equal(after[:, 6:], before[:, 6:])
    assert "*.q_a_proj.weight" not in gguf_form(any_of("deepseek_v3", norm_eps=1e-6)).changes
