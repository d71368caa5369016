"""OLMo in one file (arXiv 2402.00838): a Llama whose norms have no weights and whose projections may be clipped.

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
    LayerNorm,
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

NORM_EPS = 1e-5  # no OLMo has another, so no file says it


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. Queries, keys and values stay within plus and minus `clip_qkv`; None: anywhere."""

    model_type: ClassVar[str] = "olmo"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope: Rope = field(default_factory=Rope)
    clip_qkv: float | None = None
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
        keys.require("hidden_act", ("silu", "swish"), "an OLMo has silu")
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
            rope=parse_rope(keys, max_positions=max_positions),
            clip_qkv=keys.optional_number("clip_qkv"),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
            attention_bias=keys.flag("attention_bias", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"pretraining_tp"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["OlmoForCausalLM"],
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
            "rope_parameters": rope_to_hf(self.rope),
            "clip_qkv": self.clip_qkv,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
        }


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim, self.limit = layer, c.head_dim, c.clip_qkv
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (self.clip(split_heads(project(x), self.head_dim)) for project in (self.q, self.k, self.v))
        q, k = (rotate(heads, rope).to(x.dtype) for heads in (q, k))
        k, v, view = plan.remember(self.layer, k, v)  # (B, K, S, D)
        return self.o(merge_heads(attend(q, k, v, view)))  # (B, H, T, D) -> (B, T, C)

    def clip(self, heads: Tensor) -> Tensor:
        return heads if self.limit is None else heads.clamp(-self.limit, self.limit)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = _norm(config)
        self.mlp = GatedMLP(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of an OLMo: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(_norm(c), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        # fp32 whatever the dtype, as OLMo was trained: heads turn in fp32 and are rounded afterwards
        return plan.rope_table(c.rope, c.head_dim)


def _norm(config: Config) -> nn.LayerNorm:
    """A norm without weights; torch computes it in fp32 whatever the dtype of x and rounds once."""
    return LayerNorm(config.dim, NORM_EPS, elementwise_affine=False)


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
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"max_positions": 2_048} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "num_heads": heads}
    return Config(vocab_size=50_304, num_kv_heads=heads, head_dim=dim // heads, **values)


# The sizes people name, from the config.json of each release: layers, C, hidden width, H
PRESETS: dict[str, Config] = {
    "OLMo-1B": _preset(16, 2048, 8192, 16, tie_embeddings=True),
    "OLMo-7B": _preset(32, 4096, 11008, 32),
    "OLMo-7B-0424": _preset(32, 4096, 11008, 32, max_positions=4_096, clip_qkv=8.0),  # first called OLMo-1.7-7B
    "OLMo-7B-0724": _preset(32, 4096, 11008, 32, max_positions=4_096, clip_qkv=8.0),
}
