"""Granite 3 in one file (arXiv 2408.13359): a Llama with factors on embeddings, scores, residuals and logits.

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
    Plan,
    RMSNorm,
    Rope,
    RopeTable,
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
    """What this architecture reads.

    Embeddings are multiplied, scores too (instead of by 1 / sqrt(D)) and what each attention and MLP adds; logits are
    divided, by `logits_scaling`.
    """

    model_type: ClassVar[str] = "granite"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float = 1e-5
    rope: Rope = field(default_factory=Rope)
    embedding_multiplier: float = 1.0
    attention_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a Granite has silu")
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
            embedding_multiplier=keys.number("embedding_multiplier", default=1.0),
            attention_multiplier=keys.number("attention_multiplier", default=1.0),
            residual_multiplier=keys.number("residual_multiplier", default=1.0),
            logits_scaling=keys.number("logits_scaling", default=1.0),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
            attention_bias=keys.flag("attention_bias", default=False),
            mlp_bias=keys.flag("mlp_bias", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"pretraining_tp"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["GraniteForCausalLM"],
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
            "embedding_multiplier": self.embedding_multiplier,
            "attention_multiplier": self.attention_multiplier,
            "residual_multiplier": self.residual_multiplier,
            "logits_scaling": self.logits_scaling,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        }


class Begin(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.multiplier = config.embedding_multiplier

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        return self.embed(x) * self.multiplier  # (B, T) -> (B, T, C)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim, self.scale = layer, c.head_dim, c.attention_multiplier
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view, scale=self.scale)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.multiplier = config.residual_multiplier
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.hidden_dim, bias=config.mlp_bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x.add(self.attention(self.attention_norm(x), rope, plan), alpha=self.multiplier)
        return x.add(self.mlp(self.mlp_norm(x)), alpha=self.multiplier)


class End(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.head = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.scaling = config.logits_scaling

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x) / self.scaling)  # (B, T, C) -> (B, T, V); fewer numbers to divide than logits


class Model(Decoder):
    """The layers of `part` of a Granite: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: Begin(c),
            block=lambda layer: Block(c, layer),
            end=lambda: End(c),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.head_dim, dtype=dtype)


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "model.embed_tokens.weight": "begin.embed.weight",
    "model.layers.{i}.input_layernorm.weight": "mid.{i}.attention_norm.weight",
    "model.layers.{i}.self_attn.q_proj.weight": "mid.{i}.attention.q.weight",
    "model.layers.{i}.self_attn.q_proj.bias": "mid.{i}.attention.q.bias",
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.k_proj.bias": "mid.{i}.attention.k.bias",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.v_proj.bias": "mid.{i}.attention.v.bias",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.self_attn.o_proj.bias": "mid.{i}.attention.o.bias",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.gate_proj.bias": "mid.{i}.mlp.gate.bias",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.up_proj.bias": "mid.{i}.mlp.up.bias",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.layers.{i}.mlp.down_proj.bias": "mid.{i}.mlp.down.bias",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(dim: int, hidden: int, **more: Any) -> Config:
    # 2048 wide with heads of 64 dimensions, or 4096 wide with heads of 128; scores are multiplied by 1 / D
    values: dict[str, Any] = {"vocab_size": 49_155, "max_positions": 131_072, "logits_scaling": dim / 256} | more
    values |= {"dim": dim, "hidden_dim": hidden, "head_dim": dim // 32, "attention_multiplier": 32 / dim}
    values |= {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "tie_embeddings": True}
    return Config(num_layers=40, num_heads=32, num_kv_heads=8, **values)


_SHORT: dict[str, Any] = {"max_positions": 4_096}
_5M, _10M = Rope(theta=5_000_000.0), Rope(theta=10_000_000.0)

# The sizes people name, from the config.json of each release: C, hidden width
PRESETS: dict[str, Config] = {
    "granite-3.0-2b-instruct": _preset(2048, 8192, **_SHORT),
    "granite-3.0-8b-instruct": _preset(4096, 12800, **_SHORT),
    "granite-3.1-2b-instruct": _preset(2048, 8192, rope=_5M),
    "granite-3.1-8b-instruct": _preset(4096, 12800, rope=_10M),
    "granite-3.3-2b-instruct": _preset(2048, 8192, vocab_size=49_159, rope=_10M),
    "granite-3.3-8b-instruct": _preset(4096, 12800, vocab_size=49_159, rope=_10M),
}
