"""What llama.cpp has of a Falcon, for whoever writes GGUF."""

import torch
from torch import Tensor

from llm_blocks import GgufForm, gguf_rope, gguf_sizes, inexpressible
from llm_blocks.gguf import Change
from llm_model_falcon.falcon import Config


def falcon(config: Config) -> GgufForm:
    """A Falcon with rotary embeddings and both halves of a layer side by side."""
    if config.rope is None:
        raise inexpressible("llama.cpp has no linear biases (ALiBi) for a Falcon")
    if config.layout == "sequential" or config.bias:
        raise inexpressible("llama.cpp has attention and MLP of a Falcon side by side, and no biases")
    rope, _ = gguf_rope(config.rope, config.head_dim)
    sizes = gguf_sizes(config, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim)
    return GgufForm(
        architecture="falcon",
        values=sizes | rope | {"attention.layer_norm_epsilon": config.norm_eps},
        changes={"*.query_key_value.weight": by_kind(config.num_kv_heads, config.head_dim)},
    )


def by_kind(num_kv_heads: int, head_dim: int) -> Change:
    """All queries, then all keys, then all values, instead of those of one kv head after another."""

    def change(rows: Tensor) -> Tensor:
        groups = rows.unflatten(0, (num_kv_heads, -1, head_dim))  # (K, H/K + 2, D, C)
        return torch.cat([groups[:, part].flatten(0, 2) for part in (slice(-2), slice(-2, -1), slice(-1, None))])

    return change
