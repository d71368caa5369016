"""Qwen2 in one file (arXiv 2407.10671): a Llama with biases on queries, keys and values, and windows on some layers.

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
    merge_heads,
    parse_rope,
    require_heads,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_model_llama.qwen_config import context_length, windowed_layers
from llm_sepweight import PartSpec

_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("hidden_act", ("silu", "swish"), "a Qwen2 has silu"),
    ("attention_bias", (True,), "its queries, keys and values have biases"),
    ("use_mrope", (False,), "positions are those of text"),  # Qwen 2.5 says so
    ("is_causal", (True,), "a position sees none after it"),  # embedding models made of a Qwen2 see all
)
_FULL, _WINDOW = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads.

    A position sees all earlier ones; in `windowed_layers` the last `sliding_window` alone, itself included.
    """

    model_type: ClassVar[str] = "qwen2"

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
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        num_layers, length = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
        rope = parse_rope(keys, max_positions=length)
        windowed = windowed_layers(keys, num_layers)
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
            head_dim=keys.integer("head_dim", default=dim // num_heads),
            max_positions=context_length(keys, length, rope),
            norm_eps=keys.number("rms_norm_eps"),
            rope=rope,
            sliding_window=keys.nullable_integer("sliding_window", default=4096) if windowed else None,
            windowed_layers=windowed,
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"sliding_window"})  # files give its size even where no layer has it
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
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
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
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
    """The layers of `part` of a Qwen2: see `Decoder` for what goes in and comes out."""

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
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}

_SIZES: dict[str, tuple[int, int, int, int, int]] = {  # layers, C, hidden width, H, K
    "0.5B": (24, 896, 4864, 14, 2),
    "1.5B": (28, 1536, 8960, 12, 2),
    "3B": (36, 2048, 11008, 16, 2),
    "7B": (28, 3584, 18944, 28, 4),
    "14B": (48, 5120, 13824, 40, 8),
    "32B": (64, 5120, 27648, 40, 8),
    "72B": (80, 8192, 29568, 64, 8),
}


def _preset(size: str, max_positions: int, *, theta: float = 1_000_000.0, **more: Any) -> Config:
    layers, dim, hidden, heads, kv_heads = _SIZES[size]
    values: dict[str, Any] = {"vocab_size": 152_064, "num_layers": layers, "dim": dim, "hidden_dim": hidden} | more
    values |= {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": dim // heads, "rope": Rope(theta=theta)}
    return Config(max_positions=max_positions, **values)


_VOCABULARY: dict[str, Any] = {"vocab_size": 151_936}
_TIED: dict[str, Any] = _VOCABULARY | {"tie_embeddings": True}
_EPS: dict[str, Any] = {"norm_eps": 1e-5}
_32K, _128K = 32_768, 131_072

# The sizes people name, from the config.json of each release
PRESETS: dict[str, Config] = {
    "Qwen2-0.5B": _preset("0.5B", _128K, **_TIED),
    "Qwen2-0.5B-Instruct": _preset("0.5B", _32K, **_TIED),
    "Qwen2-1.5B": _preset("1.5B", _128K, **_TIED),
    "Qwen2-1.5B-Instruct": _preset("1.5B", _32K, **_TIED),
    "Qwen2-7B": _preset("7B", _128K),
    "Qwen2-7B-Instruct": _preset("7B", _32K),
    "Qwen2-72B": _preset("72B", _128K, **_EPS),
    "Qwen2-72B-Instruct": _preset("72B", _32K),
    "Qwen2.5-0.5B": _preset("0.5B", _32K, **_TIED),
    "Qwen2.5-1.5B": _preset("1.5B", _128K, **_TIED),
    "Qwen2.5-1.5B-Instruct": _preset("1.5B", _32K, **_TIED),
    "Qwen2.5-3B": _preset("3B", _32K, **_TIED),
    "Qwen2.5-7B": _preset("7B", _128K),
    "Qwen2.5-7B-Instruct": _preset("7B", _32K),
    "Qwen2.5-14B": _preset("14B", _128K, **_EPS),
    "Qwen2.5-14B-Instruct": _preset("14B", _32K),
    "Qwen2.5-32B": _preset("32B", _128K, **_EPS),
    "Qwen2.5-32B-Instruct": _preset("32B", _32K),
    "Qwen2.5-72B": _preset("72B", _128K, **_EPS),
    "Qwen2.5-72B-Instruct": _preset("72B", _32K),
    "Qwen2.5-7B-Instruct-1M": _preset("7B", 262_144, theta=10_000_000.0, **_EPS),
    "Qwen2.5-14B-Instruct-1M": _preset("14B", 262_144, theta=10_000_000.0, **_EPS),
    "Qwen2.5-Coder-0.5B": _preset("0.5B", _32K, **_TIED),
    "Qwen2.5-Coder-1.5B": _preset("1.5B", _32K, **_TIED),
    "Qwen2.5-Coder-3B": _preset("3B", _32K, **_TIED),
    "Qwen2.5-Coder-7B": _preset("7B", _32K),
    "Qwen2.5-Coder-14B": _preset("14B", _32K, **_EPS),
    "Qwen2.5-Coder-32B": _preset("32B", _32K, **_EPS),
    "Qwen2.5-Coder-32B-Instruct": _preset("32B", _32K),
    "Qwen2.5-Math-1.5B": _preset("1.5B", 4_096, theta=10_000.0, **_TIED),
    "Qwen2.5-Math-7B": _preset("7B", 4_096, theta=10_000.0),
    "Qwen2.5-Math-72B": _preset("72B", 4_096, theta=10_000.0, **_EPS),
    "QwQ-32B-Preview": _preset("32B", _32K, **_EPS),
    "QwQ-32B": _preset("32B", 40_960, **_EPS),
    "DeepSeek-R1-Distill-Qwen-1.5B": _preset("1.5B", _128K, theta=10_000.0, **_VOCABULARY),
    "DeepSeek-R1-Distill-Qwen-7B": _preset("7B", _128K, theta=10_000.0),
    "DeepSeek-R1-Distill-Qwen-14B": _preset("14B", _128K, **_EPS),
    "DeepSeek-R1-Distill-Qwen-32B": _preset("32B", _128K, **_EPS),
}
