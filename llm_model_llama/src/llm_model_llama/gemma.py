"""Gemma in one file (arXiv 2403.08295): a Llama with scaled embeddings, norms around 1, wide heads and GeGLU.

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
    OffsetRMSNorm,
    Plan,
    Rope,
    RopeTable,
    ScaledEmbedding,
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

_GELU = "gelu_pytorch_tanh"
_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    # the first files say "gelu" and mean the approximation with tanh, by which the weights were trained
    ("hidden_act", (_GELU, "gelu"), "a Gemma has GELU"),
    # files that have this key as well mean it exactly
    ("hidden_activation", (_GELU,), "a Gemma has GELU in its approximation with tanh"),
    ("attention_bias", (False,), "its projections have no biases"),
    ("use_bidirectional_attention", (False,), "a position sees earlier ones alone"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. All heads together may be wider than C."""

    model_type: ClassVar[str] = "gemma"

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
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
        max_positions = keys.integer("max_position_embeddings")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=keys.integer("hidden_size"),
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=keys.integer("num_attention_heads"),
            num_kv_heads=keys.integer("num_key_value_heads"),
            head_dim=keys.integer("head_dim"),
            max_positions=max_positions,
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions),
            tie_embeddings=keys.flag("tie_word_embeddings", default=True),  # published files don't say it
        )
        keys.finish(inert=INERT_KEYS)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["GemmaForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": _GELU,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=False)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = OffsetRMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = OffsetRMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.hidden_dim, activation=gelu_tanh)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a Gemma: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: ScaledEmbedding(c.vocab_size, c.dim, c.dim**0.5),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(OffsetRMSNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
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
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, heads: int, kv_heads: int) -> Config:
    values: dict[str, Any] = {"vocab_size": 256_000, "head_dim": 256, "max_positions": 8_192}
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden}
    return Config(num_heads=heads, num_kv_heads=kv_heads, **values)


_2B, _7B = _preset(18, 2048, 16384, 8, 1), _preset(28, 3072, 24576, 16, 16)

# The sizes people name, from the config.json of each release; later ones changed the training, not the sizes
PRESETS: dict[str, Config] = {
    "gemma-2b": _2B,
    "gemma-7b": _7B,
    "gemma-1.1-2b": _2B,
    "gemma-1.1-7b": _7B,
    "codegemma-2b": _2B,
    "codegemma-7b": _7B,
    "codegemma-1.1-2b": _2B,
    "codegemma-1.1-7b": _7B,
}
