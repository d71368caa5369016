"""What llama.cpp has of these families, for whoever writes GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from llm_blocks import GgufForm, gguf_rope, gguf_sizes, inexpressible
from llm_blocks.gguf import Change, Value

if TYPE_CHECKING:
    from llm_model_neox import gpt2 as g2
    from llm_model_neox import gpt_neox as nx
    from llm_model_neox import gptj as gj


def gpt_neox(config: nx.Config) -> GgufForm:
    """A GPT-NeoX."""
    if not config.attention_bias:
        raise inexpressible("llama.cpp wants biases in the attention of a GPT-NeoX")
    rope, _ = gguf_rope(config.rope, config.head_dim)
    return GgufForm(
        architecture="gptneox",
        values=_sizes(config) | rope | {"use_parallel_residual": config.parallel_residual},
        changes={"*.query_key_value.*": by_kind(config.num_heads)},
        separate_head=True,
    )


def gpt2(config: g2.Config) -> GgufForm:
    """A GPT-2; its linear layers are the other way round there."""
    if not config.scale_attention or config.scale_by_layer:
        raise inexpressible("llama.cpp divides the scores of a GPT-2 by the root of the head size in every layer")
    names = ("*.c_attn.weight", "*.c_proj.weight", "*.c_fc.weight")
    return GgufForm(architecture="gpt2", values=_sizes(config), changes=dict.fromkeys(names, Tensor.t))


def gptj(config: gj.Config) -> NoReturn:
    """No GPT-J: llama.cpp has its name, but no code for it."""
    raise inexpressible("llama.cpp doesn't run any GPT-J")


def by_kind(num_heads: int) -> Change:
    """All queries, then all keys, then all values, instead of those of one head after another."""

    def change(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)  # (H, 3, D, …) -> (3 H D, …)

    return change


def _sizes(config: Any) -> dict[str, Value]:
    sizes = gguf_sizes(config, num_kv_heads=config.num_heads, head_dim=config.head_dim)
    return sizes | {"attention.layer_norm_epsilon": config.norm_eps}
