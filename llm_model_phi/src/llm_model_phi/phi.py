"""Phi 1, 1.5 and 2 in one file (arXiv 2306.11644, 2309.05463): attention and MLP side by side behind one norm.

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
    Head,
    LayerNorm,
    Plan,
    Rope,
    RopeTable,
    TokenEmbedding,
    attend,
    gelu_tanh,
    merge_heads,
    parse_rope,
    require_heads,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_sepweight import PartSpec

_SHARE = "partial_rotary_factor"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. `qk_norm` says whether queries and keys are normalised, each head by itself."""

    model_type: ClassVar[str] = "phi"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float = 1e-5
    rope: Rope = field(default_factory=lambda: Rope(partial=0.5))
    qk_norm: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads)
        if self.num_heads * self.head_dim != self.dim:
            raise ValueError(f"{self.num_heads} heads of {self.head_dim} dimensions must make up the width {self.dim}")
        self.rope.require_fits(self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("gelu_new", "gelu_pytorch_tanh"), "a Phi has GELU by its tanh formula")
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
            norm_eps=keys.number("layer_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions, partial=0.5),
            qk_norm=keys.flag("qk_layernorm", default=False),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=INERT_KEYS)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["PhiForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "hidden_act": "gelu_new",
            "max_position_embeddings": self.max_positions,
            "layer_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope) | {_SHARE: self.rope.partial},  # its absence means a half
            "qk_layernorm": self.qk_norm,
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim)
        self.q_norm = LayerNorm(c.head_dim, c.norm_eps) if c.qk_norm else None
        self.k_norm = LayerNorm(c.head_dim, c.norm_eps) if c.qk_norm else None

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))  # (B, H, T, D)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.hidden_dim)
        self.down = nn.Linear(config.hidden_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu_tanh(self.up(x)))  # (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.norm = LayerNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        y = self.norm(x)
        return self.attention(y, rope, plan) + self.mlp(y) + x


class Model(Decoder):
    """The layers of `part` of a Phi: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(LayerNorm(c.dim, c.norm_eps), c.dim, c.vocab_size, bias=True),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.head_dim, dtype=dtype)


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "model.embed_tokens.weight": "begin.embed.weight",
    "model.layers.{i}.input_layernorm.weight": "mid.{i}.norm.weight",
    "model.layers.{i}.input_layernorm.bias": "mid.{i}.norm.bias",
    "model.layers.{i}.self_attn.q_proj.weight": "mid.{i}.attention.q.weight",
    "model.layers.{i}.self_attn.q_proj.bias": "mid.{i}.attention.q.bias",
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.k_proj.bias": "mid.{i}.attention.k.bias",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.v_proj.bias": "mid.{i}.attention.v.bias",
    "model.layers.{i}.self_attn.dense.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.self_attn.dense.bias": "mid.{i}.attention.o.bias",
    "model.layers.{i}.self_attn.q_layernorm.weight": "mid.{i}.attention.q_norm.weight",
    "model.layers.{i}.self_attn.q_layernorm.bias": "mid.{i}.attention.q_norm.bias",
    "model.layers.{i}.self_attn.k_layernorm.weight": "mid.{i}.attention.k_norm.weight",
    "model.layers.{i}.self_attn.k_layernorm.bias": "mid.{i}.attention.k_norm.bias",
    "model.layers.{i}.mlp.fc1.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.fc1.bias": "mid.{i}.mlp.up.bias",
    "model.layers.{i}.mlp.fc2.weight": "mid.{i}.mlp.down.weight",
    "model.layers.{i}.mlp.fc2.bias": "mid.{i}.mlp.down.bias",
    "model.final_layernorm.weight": "end.norm.weight",
    "model.final_layernorm.bias": "end.norm.bias",
    "lm_head.weight": "end.head.weight",
    "lm_head.bias": "end.head.bias",
}


def _preset(layers: int, dim: int, share: float) -> Config:
    sizes: dict[str, Any] = {"num_layers": layers, "dim": dim, "hidden_dim": 4 * dim, "head_dim": dim // 32}
    return Config(
        vocab_size=51_200, max_positions=2_048, num_heads=32, num_kv_heads=32, rope=Rope(partial=share), **sizes
    )


# The sizes people name, from the config.json of each release: layers, C, share of a head that turns
PRESETS: dict[str, Config] = {
    "phi-1": _preset(24, 2048, 0.5),
    "phi-1_5": _preset(24, 2048, 0.5),
    "phi-2": _preset(32, 2560, 0.4),
}
