"""OLMo 2 in one file (arXiv 2501.00656): norms after attention and MLP, none before; queries and keys normalised whole.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, S positions to look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from llm_blocks import (
    INERT_KEYS,
    CacheShape,
    ConfigKeys,
    Decoder,
    GatedMLP,
    Head,
    Plan,
    Rope,
    RopeTable,
    TokenEmbedding,
    attend,
    merge_heads,
    parse_rope,
    require_heads,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_sepweight import PartSpec


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads."""

    model_type: ClassVar[str] = "olmo2"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    tie_embeddings: bool = False
    attention_bias: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "an OLMo 2 has silu")
        keys.require("clip_qkv", (), "queries and keys are normalised, not clipped")
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        max_positions = keys.integer("max_position_embeddings")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
            head_dim=keys.integer("head_dim", default=dim // num_heads),
            max_positions=max_positions,
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
            attention_bias=keys.flag("attention_bias", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"pretraining_tp"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Olmo2ForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
        }


class Attention(nn.Module):
    """Queries and keys are normalised over all their heads at once, before they are split."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=bias)
        self.q_norm = _norm(c.num_heads * c.head_dim, c)
        self.k_norm = _norm(c.num_kv_heads * c.head_dim, c)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = self.q_norm(self.q(x)), self.k_norm(self.k(x)), self.v(x)  # (B, T, H D), two of (B, T, K D)
        q, k, v = (split_heads(each, self.head_dim) for each in (q, k, v))
        q, k = (rotate(heads, rope).to(x.dtype) for heads in (q, k))
        k, v, view = plan.remember(self.layer, k, v)  # (B, K, S, D)
        return self.o(merge_heads(attend(q, k, v, view)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.post_attention_norm = _norm(config.dim, config)
        self.mlp = GatedMLP(config.dim, config.hidden_dim)
        self.post_mlp_norm = _norm(config.dim, config)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.post_attention_norm(self.attention(x, rope, plan))
        return x + self.post_mlp_norm(self.mlp(x))


class Model(Decoder):
    """The layers of `part` of an OLMo 2: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(_norm(c.dim, c), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        # fp32 whatever the dtype, as OLMo 2 was trained: heads turn in fp32 and are rounded afterwards
        return plan.rope_table(c.rope, c.head_dim)


def _norm(dim: int, config: Config) -> nn.RMSNorm:
    """torch's own multiplies by the weight in fp32 and then rounds, as OLMo 2 was trained; a Llama's rounds before."""
    return nn.RMSNorm(dim, config.norm_eps)


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "model.embed_tokens.weight": "begin.embed.weight",
    "model.layers.{i}.self_attn.q_proj.weight": "mid.{i}.attention.q.weight",
    "model.layers.{i}.self_attn.q_proj.bias": "mid.{i}.attention.q.bias",
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.k_proj.bias": "mid.{i}.attention.k.bias",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.v_proj.bias": "mid.{i}.attention.v.bias",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.self_attn.o_proj.bias": "mid.{i}.attention.o.bias",
    "model.layers.{i}.self_attn.q_norm.weight": "mid.{i}.attention.q_norm.weight",
    "model.layers.{i}.self_attn.k_norm.weight": "mid.{i}.attention.k_norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.post_attention_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.layers.{i}.post_feedforward_layernorm.weight": "mid.{i}.post_mlp_norm.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, heads: int, kv_heads: int) -> Config:
    shape: dict[str, Any] = {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "num_heads": heads}
    more: dict[str, Any] = {"vocab_size": 100_352, "max_positions": 4_096, "rope": Rope(theta=500_000.0)}
    return Config(num_kv_heads=kv_heads, head_dim=128, **shape, **more)


# The sizes people name, from the config.json of each release: layers, C, hidden width, H, K
PRESETS: dict[str, Config] = {
    "OLMo-2-0425-1B": _preset(16, 2048, 8192, 16, 16),
    "OLMo-2-1124-7B": _preset(32, 4096, 11008, 32, 32),
    "OLMo-2-1124-13B": _preset(40, 5120, 13824, 40, 40),
    "OLMo-2-0325-32B": _preset(64, 5120, 27648, 40, 8),
}
