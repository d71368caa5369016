"""What llama.cpp has of these families, for whoever writes GGUF: names, metadata and layouts of weights.

Facts of llama.cpp as of late 2026 (gguf 0.19): src/models/*.cpp there reads what is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm_blocks import GgufForm, gguf_rope, gguf_sizes, inexpressible, within_window
from llm_blocks.gguf import Change, Value

if TYPE_CHECKING:
    from llm_model_llama import gemma as g1
    from llm_model_llama import gemma2 as g2
    from llm_model_llama import gemma3 as g3
    from llm_model_llama import granite as gr
    from llm_model_llama import llama as ll
    from llm_model_llama import mistral as ms
    from llm_model_llama import mixtral as mx
    from llm_model_llama import olmo as o1
    from llm_model_llama import olmo2 as o2
    from llm_model_llama import qwen2 as q2
    from llm_model_llama import qwen2_moe as q2m
    from llm_model_llama import qwen3 as q3
    from llm_model_llama import qwen3_moe as q3m
    from llm_model_llama import smollm3 as sm
    from llm_model_llama import stablelm as sl

_LARGEST_GEMMA2, _LARGEST_GEMMA3 = 46, 62  # layers, by which llama.cpp tells the 27B of each


def llama(config: ll.Config) -> GgufForm:
    """A Llama."""
    return _turning_pairs(config, "llama")


def mistral(config: ms.Config) -> GgufForm:
    """A Mistral is a Llama there, and sees everything."""
    return within_window(_turning_pairs(config, "llama"), config.sliding_window)


def mixtral(config: mx.Config) -> GgufForm:
    """A Mixtral is a Llama with experts there."""
    form = _with(_turning_pairs(config, "llama"), experts(config.num_experts, config.experts_per_token))
    return within_window(form, config.sliding_window)


def granite(config: gr.Config) -> GgufForm:
    """A Granite."""
    factors = {
        "embedding_scale": config.embedding_multiplier,
        "attention.scale": config.attention_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
    }
    return _with(_turning_pairs(config, "granite"), factors)


def smollm3(config: sm.Config) -> GgufForm:
    """A SmolLM3, whose every fourth layer doesn't turn."""
    if config.rope_layers != tuple((layer + 1) % 4 != 0 for layer in range(config.num_layers)):
        raise inexpressible("llama.cpp turns heads in all layers but each fourth, this SmolLM3 in others")
    if config.attention_bias or config.mlp_bias:
        raise inexpressible("llama.cpp has no biases for a SmolLM3")
    form = _turning_pairs(config, "smollm3", factors=False)
    return within_window(form, config.sliding_window if any(config.sliding_layers) else None)


def olmo(config: o1.Config) -> GgufForm:
    """An OLMo, whose norms have no weights."""
    from llm_model_llama.olmo import NORM_EPS

    _require_width(config)
    require_no_bias(config.attention_bias)
    more: dict[str, Value] = {"attention.layer_norm_epsilon": NORM_EPS}
    if config.clip_qkv is not None:
        more["attention.clamp_kqv"] = config.clip_qkv
    rope, _ = gguf_rope(config.rope, config.head_dim)
    return GgufForm(architecture="olmo", values=_sizes(config) | rope | more, changes=_to_pairs(config))


def olmo2(config: o2.Config) -> GgufForm:
    """An OLMo 2."""
    _require_width(config)
    require_no_bias(config.attention_bias)
    return replace(_turning_halves(config, "olmo2"), separate_head=True)


def qwen2(config: q2.Config) -> GgufForm:
    """A Qwen2 or 2.5."""
    _require_width(config)
    return within_window(_turning_halves(config, "qwen2"), config.sliding_window)


def qwen2_moe(config: q2m.Config) -> GgufForm:
    """A Qwen2 of experts, one of them shared."""
    _require_width(config)
    _require_sparse(config)
    if config.normalize_shares:
        raise inexpressible("llama.cpp doesn't make the shares of Qwen2's experts add up to 1, norm_topk_prob is true")
    sizes: dict[str, Value] = {
        "expert_feed_forward_length": config.expert_hidden_dim,
        "expert_shared_feed_forward_length": config.shared_hidden_dim,
    }
    more = experts(config.num_experts, config.experts_per_token) | sizes
    form = replace(_with(_turning_halves(config, "qwen2moe"), more), separate_head=True)
    return within_window(form, config.sliding_window)


def qwen3(config: q3.Config) -> GgufForm:
    """A Qwen3."""
    require_no_bias(config.attention_bias)
    return within_window(_turning_halves(config, "qwen3"), config.sliding_window)


def qwen3_moe(config: q3m.Config) -> GgufForm:
    """A Qwen3 of experts."""
    require_no_bias(config.attention_bias)
    _require_sparse(config)
    if not config.normalize_shares:
        raise inexpressible("llama.cpp makes the shares of a Qwen3's experts add up to 1, norm_topk_prob is false")
    more = experts(config.num_experts, config.experts_per_token)
    more["expert_feed_forward_length"] = config.expert_hidden_dim
    return within_window(_with(_turning_halves(config, "qwen3moe"), more), config.sliding_window)


def gemma(config: g1.Config) -> GgufForm:
    """A Gemma."""
    return _gemma(config, "gemma")


def gemma2(config: g2.Config) -> GgufForm:
    """A Gemma 2, whose every second layer has a window."""
    if config.attention_cap is None or config.logit_cap is None:
        raise inexpressible("llama.cpp always caps the scores and logits of a Gemma 2")
    _require_scale(config, config.num_layers == _LARGEST_GEMMA2)
    caps = {"attn_logit_softcapping": config.attention_cap, "final_logit_softcapping": config.logit_cap}
    window: dict[str, Value] = {"attention.sliding_window": config.sliding_window or config.max_positions}
    return _with(_gemma(config, "gemma2"), caps | window | _window_pattern(config.sliding_layers, every=2))


def gemma3(config: g3.Config) -> GgufForm:
    """A Gemma 3, whose layers with a window turn by a base of their own."""
    if config.attention_cap is not None:
        raise inexpressible("llama.cpp doesn't cap the scores of a Gemma 3")
    if config.local_rope.kind != "default" or config.rope.kind not in ("default", "linear"):
        kinds = f"{config.rope.kind} and {config.local_rope.kind}"
        raise inexpressible(f"llama.cpp stretches the layers of a Gemma 3 without a window evenly at most, not {kinds}")
    _require_scale(config, config.num_layers == _LARGEST_GEMMA3)
    more: dict[str, Value] = {} if config.logit_cap is None else {"final_logit_softcapping": config.logit_cap}
    if config.sliding_window is not None and any(config.sliding_layers):
        more |= _window_pattern(config.sliding_layers, every=6)
        more |= {"attention.sliding_window": config.sliding_window, "rope.freq_base_swa": config.local_rope.theta}
    return _with(_gemma(config, "gemma3", any_head=True), more)


def stablelm(config: sl.Config) -> GgufForm:
    """A StableLM; the norms of its heads are one tensor there."""
    rope, _ = gguf_rope(config.rope, config.head_dim)
    values = _sizes(config) | rope | {"attention.layer_norm_epsilon": config.norm_eps}
    renames = {".q_layernorm.norms.": ".q_layernorm.", ".k_layernorm.norms.": ".k_layernorm."}
    return GgufForm(architecture="stablelm", values=values, renames=renames, separate_head=True)


def to_pairs(heads: int) -> Change:
    """Rows of a projection whose heads turn one half against the other, reordered for heads that turn neighbours."""

    def change(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)  # (H D, …) -> (H, 2, D/2, …) -> (H D, …)

    return change


def experts(num: int, used: int) -> dict[str, Value]:
    """How many experts a layer has, and how many of them a token uses."""
    return {"expert_count": num, "expert_used_count": used}


def require_no_bias(bias: bool) -> None:
    """ValueError for an architecture that has biases here and none there."""
    if bias:
        raise inexpressible("llama.cpp has no biases for the attention of this architecture")


def _to_pairs(config: Any) -> dict[str, Change]:
    return {"*.q_proj.*": to_pairs(config.num_heads), "*.k_proj.*": to_pairs(config.num_kv_heads)}


def _turning_pairs(config: Any, architecture: str, *, factors: bool = True) -> GgufForm:
    """What llama.cpp has of a Llama and those close to it; their heads turn neighbours."""
    form = _turning_halves(config, architecture, factors=factors)
    return replace(form, changes=_to_pairs(config))


def _turning_halves(config: Any, architecture: str, *, factors: bool = False) -> GgufForm:
    rope, tensors = gguf_rope(config.rope, config.head_dim, factors=factors)
    values = _sizes(config) | rope | {"attention.layer_norm_rms_epsilon": config.norm_eps}
    return GgufForm(architecture=architecture, values=values, factors=tensors)


def _gemma(config: Any, architecture: str, *, any_head: bool = False) -> GgufForm:
    """What llama.cpp has of every Gemma: its norms multiply by their weights, not by 1 + these."""
    if not (config.tie_embeddings or any_head):
        raise inexpressible("llama.cpp takes the embedding as the head of this Gemma, whose head is another")
    return replace(_turning_halves(config, architecture), changes={"*norm.weight": lambda weight: weight.float() + 1})


def _sizes(config: Any) -> dict[str, Value]:
    return gguf_sizes(config, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim)


def _with(form: GgufForm, values: Mapping[str, Value]) -> GgufForm:
    return replace(form, values={**form.values, **values})


def _window_pattern(sliding: tuple[bool, ...], *, every: int) -> dict[str, Value]:
    """Which layers have a window, where it isn't all but each `every`-th, as llama.cpp takes it."""
    usual = tuple((layer + 1) % every != 0 for layer in range(len(sliding)))
    return {} if sliding == usual else {"attention.sliding_window_pattern": sliding}


def _require_width(config: Any) -> None:
    if config.num_heads * config.head_dim != config.dim:
        heads = f"{config.num_heads} heads of {config.head_dim}"
        raise inexpressible(f"llama.cpp wants the heads to make up the width {config.dim} here, these are {heads}")


def _require_sparse(config: Any) -> None:
    dense = next((layer for layer in range(config.num_layers) if not config.is_sparse(layer)), None)
    if dense is not None:
        raise inexpressible(f"llama.cpp wants experts in every layer here, and layer {dense} has none")


def _require_scale(config: Any, largest: bool) -> None:
    fixed = config.dim // config.num_heads if largest else config.head_dim
    if config.attention_scalar != fixed:
        got = f"query_pre_attn_scalar is {config.attention_scalar}"
        raise inexpressible(f"llama.cpp divides scores by the root of {fixed} in a model of this size, and {got}")
