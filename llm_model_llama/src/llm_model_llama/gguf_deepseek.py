"""What llama.cpp has of the DeepSeeks with latent attention, for whoever writes GGUF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm_blocks import GgufForm, gguf_rope, gguf_sizes, inexpressible
from llm_blocks.gguf import Change, Value
from llm_model_llama.gguf import experts, require_no_bias
from llm_model_llama.mla import LATENT_EPS

if TYPE_CHECKING:
    from llm_model_llama import deepseek_v2 as v2
    from llm_model_llama import deepseek_v3 as v3

_SOFTMAX, _SIGMOID = 1, 2  # what llama.cpp calls the ways of scoring experts


def deepseek_v2(config: v2.Config) -> GgufForm:
    """A DeepSeek-V2; its groups of experts are compared otherwise than there."""
    if config.num_experts and config.groups_per_token < config.num_groups:
        raise inexpressible("llama.cpp compares groups of experts by their two best, a DeepSeek-V2 by the best alone")
    return _deepseek(config, {"expert_gating_func": _SOFTMAX})


def deepseek_v3(config: v3.Config) -> GgufForm:
    """A DeepSeek-V3."""
    if not config.interleaved:
        raise inexpressible("llama.cpp turns neighbouring dimensions of a DeepSeek, rope_interleave is false")
    values: dict[str, Value] = {"expert_gating_func": _SIGMOID, "expert_weights_norm": config.normalize_weights}
    if config.num_experts and config.groups_per_token < config.num_groups:
        values |= {"expert_group_count": config.num_groups, "expert_group_used_count": config.groups_per_token}
    return _deepseek(config, values)


def _deepseek(config: v2.Config | v3.Config, values: Mapping[str, Value]) -> GgufForm:
    """What llama.cpp has of both: the matrix of latents in two parts, and one key for all heads."""
    latent, heads = config.latent, config.num_heads
    require_no_bias(config.attention_bias)
    if config.num_experts and (config.sparse_step != 1 or not config.num_shared_experts):
        raise inexpressible("llama.cpp has experts, some of them shared, in every layer after the dense ones")
    short = config.num_layers in (26, 27) or (config.num_layers == 48 and config.vocab_size == 128_256)
    if short and latent.q_rank is not None:
        raise inexpressible(f"llama.cpp takes a DeepSeek of {config.num_layers} layers to have no latents of queries")
    sizes: dict[str, Value] = {
        **gguf_sizes(config, num_kv_heads=1, head_dim=latent.kv_rank + latent.turned_dim),
        "attention.value_length": latent.kv_rank,
        "attention.key_length_mla": latent.head_dim,
        "attention.value_length_mla": latent.value_dim,
        "attention.q_lora_rank": latent.q_rank or 0,
        "attention.kv_lora_rank": latent.kv_rank,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "leading_dense_block_count": config.dense_layers if config.num_experts else config.num_layers,
        "expert_feed_forward_length": config.expert_dim or config.hidden_dim,
        "expert_shared_count": config.num_shared_experts,
        "expert_weights_scale": config.routed_scale,
    }
    routed = experts(config.num_experts, config.experts_per_token) if config.num_experts else {}
    by_head = (heads, latent.still_dim + latent.value_dim)
    parts: dict[str, Change] = {
        "k_b_proj": lambda rows: rows.unflatten(0, by_head)[:, : latent.still_dim].transpose(1, 2),  # (H, R, N)
        "v_b_proj": lambda rows: rows.unflatten(0, by_head)[:, latent.still_dim :],  # (H, V, R)
    }
    return GgufForm(
        architecture="deepseek2",
        values={**sizes, **routed, **values, **_latent_rope(config)},
        changes={"*.kv_b_proj.weight": parts, **_one_epsilon(config)},
        renames={"e_score_correction_bias": "e_score_correction.bias"},
    )


def _one_epsilon(config: v2.Config | v3.Config) -> dict[str, Change]:
    """llama.cpp has one epsilon for all norms; a norm of s times as much has the result of one with s^2 less of it."""
    scale, rank = math.sqrt(config.norm_eps / LATENT_EPS), config.latent.kv_rank

    def latents(rows: Tensor) -> Tensor:
        return torch.cat((rows[:rank].float() * scale, rows[rank:].float()))  # those that turn have no norm

    if config.norm_eps == LATENT_EPS:
        return {}
    return {"*.q_a_proj.weight": lambda rows: rows.float() * scale, "*.kv_a_proj_with_mqa.weight": latents}


def _latent_rope(config: v2.Config | v3.Config) -> dict[str, Value]:
    """llama.cpp gives YaRN's factor to the softmax of a DeepSeek, as the released models have it."""
    rope = config.rope
    values, _ = gguf_rope(rope, config.latent.turned_dim)
    if rope.kind != "yarn":
        return values
    if rope.attention_factor is not None or rope.mscale is None or rope.mscale != rope.mscale_all_dim:
        raise inexpressible("llama.cpp has YaRN for a DeepSeek where mscale and mscale_all_dim are alike alone")
    values.pop("rope.scaling.attn_factor", None)
    return values | {"rope.scaling.yarn_log_multiplier": 0.1 * rope.mscale}  # llama.cpp multiplies by ten again
