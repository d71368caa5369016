"""Qwen3 in one file (arXiv 2505.09388): heads of a size of their own, whose queries and keys have norms.

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
    RMSNorm,
    Rope,
    RopeTable,
    TokenEmbedding,
    attend,
    extended_length,
    merge_heads,
    parse_rope,
    require_heads,
    rope_to_hf,
    rotate,
)
from llm_model_llama.qwen_config import windowed_layers
from llm_sepweight import PartSpec

_FULL, _WINDOW = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads.

    A position sees all earlier ones; in `windowed_layers` the last `sliding_window` alone, itself included.
    """

    model_type: ClassVar[str] = "qwen3"

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
    sliding_window: int | None = None
    windowed_layers: frozenset[int] = frozenset()
    attention_bias: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        if (self.sliding_window is None) != (not self.windowed_layers):
            raise ValueError(f"{len(self.windowed_layers)} layers have a window, which is {self.sliding_window}")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a Qwen3 has silu")
        num_heads = keys.integer("num_attention_heads")
        num_layers, length = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
        rope = parse_rope(keys, max_positions=length)
        windowed = windowed_layers(keys, num_layers)
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=keys.integer("hidden_size"),
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
            head_dim=keys.integer("head_dim", default=128),
            max_positions=extended_length(length, rope),
            norm_eps=keys.number("rms_norm_eps"),
            rope=rope,
            sliding_window=keys.nullable_integer("sliding_window", default=4096) if windowed else None,
            windowed_layers=windowed,
            attention_bias=keys.flag("attention_bias", default=False),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"sliding_window"})  # files give its size even where no layer has it
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
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
            "use_sliding_window": bool(self.windowed_layers),
            "sliding_window": self.sliding_window,
            "max_window_layers": min(self.windowed_layers, default=self.num_layers),
            "layer_types": [_WINDOW if i in self.windowed_layers else _FULL for i in range(self.num_layers)],
            "attention_bias": self.attention_bias,
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=bias)
        self.q_norm = RMSNorm(c.head_dim, c.norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.norm_eps)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q, self.k, self.v))
        # each head is normed while its dimensions are still neighbours of the next head's: (B, T, H, D)
        q, k, v = (heads.transpose(1, 2) for heads in (self.q_norm(q), self.k_norm(k), v))  # (B, H, T, D)
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a Qwen3: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        windows = tuple(c.sliding_window if i in c.windowed_layers else None for i in range(c.num_layers))
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(RMSNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(
                num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from, windows=windows
            ),
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
    "model.layers.{i}.self_attn.q_norm.weight": "mid.{i}.attention.q_norm.weight",
    "model.layers.{i}.self_attn.k_norm.weight": "mid.{i}.attention.k_norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}

_SIZES: dict[str, tuple[int, int, int, int]] = {  # layers, C, hidden width, H
    "0.6B": (28, 1024, 3072, 16),
    "1.7B": (28, 2048, 6144, 16),
    "4B": (36, 2560, 9728, 32),
    "8B": (36, 4096, 12288, 32),
    "14B": (40, 5120, 17408, 40),
    "32B": (64, 5120, 25600, 64),
}


def _preset(size: str, max_positions: int = 40_960, **more: Any) -> Config:
    layers, dim, hidden, heads = _SIZES[size]
    values: dict[str, Any] = {"vocab_size": 151_936, "rope": Rope(theta=1_000_000.0)} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "num_heads": heads}
    return Config(max_positions=max_positions, num_kv_heads=8, head_dim=128, **values)


_TIED: dict[str, Any] = {"tie_embeddings": True}
_2507: dict[str, Any] = {"max_positions": 262_144, "rope": Rope(theta=5_000_000.0)}
_R1: dict[str, Any] = {"kind": "yarn", "factor": 4.0, "original_max_positions": 32_768, "attention_factor": 1.0}

# The sizes people name, from the config.json of each release
PRESETS: dict[str, Config] = {
    "Qwen3-0.6B": _preset("0.6B", **_TIED),
    "Qwen3-1.7B": _preset("1.7B", **_TIED),
    "Qwen3-4B": _preset("4B", **_TIED),
    "Qwen3-8B": _preset("8B"),
    "Qwen3-14B": _preset("14B"),
    "Qwen3-32B": _preset("32B"),
    "Qwen3-0.6B-Base": _preset("0.6B", 32_768, **_TIED),
    "Qwen3-1.7B-Base": _preset("1.7B", 32_768, **_TIED),
    "Qwen3-4B-Base": _preset("4B", 32_768, **_TIED),
    "Qwen3-8B-Base": _preset("8B", 32_768),
    "Qwen3-14B-Base": _preset("14B", 32_768),
    "Qwen3-4B-Instruct-2507": _preset("4B", **_TIED, **_2507),
    "Qwen3-4B-Thinking-2507": _preset("4B", **_TIED, **_2507),
    "DeepSeek-R1-0528-Qwen3-8B": _preset("8B", 131_072, rope=Rope(theta=1_000_000.0, **_R1)),
}
