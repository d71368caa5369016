"""What llama.cpp has of these families, for whoever writes GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm_blocks import GgufForm, gguf_rope, gguf_sizes, inexpressible, within_window
from llm_blocks.gguf import Change, Value

if TYPE_CHECKING:
    from llm_model_phi import phi as p2
    from llm_model_phi import phi3 as p3
    from llm_model_phi import phimoe as pm

_FLAT = 2.0**-12
"""So much smaller, scores of experts are still told apart in fp32, and their softmax is all but even."""


def phi(config: p2.Config) -> GgufForm:
    """A Phi 1, 1.5 or 2."""
    if config.qk_norm:
        raise inexpressible("llama.cpp has no norms of queries and keys for a Phi")
    rope, _ = gguf_rope(config.rope, config.head_dim)
    values = _sizes(config) | rope | {"attention.layer_norm_epsilon": config.norm_eps}
    return GgufForm(architecture="phi2", values=values, separate_head=True)


def phi3(config: p3.Config) -> GgufForm:
    """A Phi 3, 3.5 or 4."""
    _require_width(config)
    rope, factors = gguf_rope(config.rope, config.head_dim, factors=True)
    values = _sizes(config) | rope | {"attention.layer_norm_rms_epsilon": config.norm_eps}
    return within_window(GgufForm(architecture="phi3", values=values, factors=factors), config.sliding_window)


def phimoe(config: pm.Config) -> GgufForm:
    """A Phi-3.5-MoE, whose norms and weights of experts llama.cpp computes otherwise: the tensors make up for it.

    Its norms there don't subtract the mean. So nothing with a mean is written into the residual stream: the embedding
    and what each attention and expert adds are centred, which changes no other norm's result. Its two experts have
    shares there that add up to 1; here each has a weight of its own, which is 1 unless another's score is near. So
    the scores are made so small that the shares are even, and what experts give twice as large.
    """
    _require_width(config)
    if not (config.attention_bias and config.head_bias):
        raise inexpressible("llama.cpp wants biases in the attention and in the head of a phimoe")
    rope, factors = gguf_rope(config.rope, config.head_dim, factors=True)
    experts: dict[str, Value] = {"expert_count": config.num_experts, "expert_used_count": 2}
    values = _sizes(config) | rope | experts | {"attention.layer_norm_rms_epsilon": config.norm_eps}
    near = f"{2 * config.router_jitter:.0%}"
    form = GgufForm(
        architecture="phimoe",
        values=values,
        factors=factors,
        separate_head=True,
        changes={
            "*.embed_tokens.weight": centred(dim=-1),
            "*.o_proj.*": centred(dim=0),
            "*.experts.*.w2.weight": centred(dim=0, scale=2.0),
            "*.gate.weight": lambda weight: weight.float() * _FLAT,
        },
        notes=(f"llama.cpp gives both experts of a token the weight 1, also where scores within {near} make it less",),
    )
    return within_window(form, config.sliding_window)


def centred(*, dim: int, scale: float = 1.0) -> Change:
    """Takes the mean along a dimension away, then multiplies."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.double()
        return ((tensor - tensor.mean(dim, keepdim=True)) * scale).float()

    return change


def _sizes(config: Any) -> dict[str, Value]:
    return gguf_sizes(config, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim)


def _require_width(config: Any) -> None:
    if config.num_heads * config.head_dim != config.dim:
        heads = f"{config.num_heads} heads of {config.head_dim}"
        raise inexpressible(f"llama.cpp wants the heads to make up the width {config.dim} here, these are {heads}")
