"""Phi 3, 3.5 and 4 in one file (arXiv 2404.14219, 2412.08905): a Llama with fused projections, windows and LongRoPE.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, I hidden width, V vocabulary, S keys to look at.
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
    Fused,
    Head,
    Parts,
    Plan,
    RMSNorm,
    Rope,
    RopeTable,
    TokenEmbedding,
    attend,
    merge_heads,
    parse_rope,
    qkv_parts,
    require_heads,
    rope_to_hf,
    rotate,
    silu_gate,
    split_heads,
)
from llm_model_phi.rotary import PHI_3_5_MINI, PHI_3_MINI_128K, PHI_4_MINI
from llm_sepweight import PartSpec

_LENGTH = "original_max_position_embeddings"
_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("hidden_act", ("silu", "swish"), "a Phi-3 has silu"),
    ("attention_bias", (False,), "its projections have no biases"),
    ("mlp_bias", (False,), "its projections have no biases"),
    ("lm_head_bias", (False,), "its head has no bias"),
    ("full_attn_mod", (1,), "all layers have the same window"),  # Phi-4-mini says so
    ("interpolate_factor", (1,), "positions are not interpolated"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. A position sees the last `sliding_window` ones, itself included; None: all."""

    model_type: ClassVar[str] = "phi3"

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
    sliding_window: int | None = None
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads)
        if self.rope.kind not in ("default", "longrope"):
            raise ValueError(f"a Phi-3 has the rotary kinds default and longrope, not {self.rope.kind!r}")
        if self.rope.short_mscale or self.rope.long_mscale:
            raise ValueError("short_mscale and long_mscale belong to a phimoe; a Phi-3 has attention_factor")
        self.rope.require_fits(self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
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
            rope=parse_rope(keys, max_positions=max_positions, partial=1.0, trained=4096),
            sliding_window=keys.optional_integer("sliding_window"),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=INERT_KEYS)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        # transformers takes the length beside the rotary settings, and 4096 for its absence, not the one inside them
        length = {} if self.rope.kind == "default" else {_LENGTH: self.rope.original_max_positions}
        return {
            "architectures": ["Phi3ForCausalLM"],
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
            **length,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "sliding_window": self.sliding_window,
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(Fused):
    """Rows of `qkv` are all queries, then all keys, then all values."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim = layer, c.head_dim
        self.widths = [heads * c.head_dim for heads in (c.num_heads, c.num_kv_heads, c.num_kv_heads)]
        self.qkv = nn.Linear(c.dim, sum(self.widths), bias=False)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(y, self.head_dim) for y in self.qkv(x).split(self.widths, dim=-1))  # (B, H, T, D)
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)

    def parts(self) -> dict[str, Parts]:
        return {"qkv": qkv_parts(self.widths[0], self.widths[1])}


class MLP(Fused):
    """Rows of `gate_up` are the gate's, then those of the way up."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.dim, 2 * config.hidden_dim, bias=False)
        self.down = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, I) each
        return self.down(silu_gate(gate, up))  # (B, T, C)

    def parts(self) -> dict[str, Parts]:
        return {"gate_up": Parts(names=("gate", "up"), sizes=(self.down.in_features,) * 2)}


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a Phi-3: see `Decoder` for what goes in and comes out.

    With LongRoPE, how long a text is taken to be decides between the short and the long factors: see `KVCache.aims`.
    """

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        kept = CacheShape(
            num_kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            windows=(c.sliding_window,) * c.num_layers,
            long_from=c.rope.long_from,
        )
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(RMSNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
            cache=kept,
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.head_dim, dtype=dtype)


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "model.embed_tokens.weight": "begin.embed.weight",
    "model.layers.{i}.input_layernorm.weight": "mid.{i}.attention_norm.weight",
    "model.layers.{i}.self_attn.qkv_proj.weight": "mid.{i}.attention.qkv.weight",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_up_proj.weight": "mid.{i}.mlp.gate_up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, heads: int, kv_heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"vocab_size": 32_064, "max_positions": 4_096} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "head_dim": dim // heads}
    return Config(num_heads=heads, num_kv_heads=kv_heads, **values)


_128K: dict[str, Any] = {"max_positions": 131_072, "sliding_window": 262_144}
_PHI_4: dict[str, Any] = {"vocab_size": 100_352}

# The sizes people name, from the config.json of each release: layers, C, hidden width, H, K
PRESETS: dict[str, Config] = {
    "Phi-3-mini-4k": _preset(32, 3072, 8192, 32, 32, sliding_window=2_047),
    "Phi-3-mini-128k": _preset(32, 3072, 8192, 32, 32, **_128K, rope=PHI_3_MINI_128K),
    "Phi-3-medium-4k": _preset(40, 5120, 17920, 40, 10, sliding_window=2_047),
    "Phi-3.5-mini": _preset(32, 3072, 8192, 32, 32, **_128K, rope=PHI_3_5_MINI),
    "Phi-4": _preset(40, 5120, 17920, 40, 10, **_PHI_4, max_positions=16_384, rope=Rope(theta=250_000.0)),
    "Phi-4-reasoning": _preset(40, 5120, 17920, 40, 10, **_PHI_4, max_positions=32_768, rope=Rope(theta=500_000.0)),
    "Phi-4-mini": _preset(32, 3072, 8192, 24, 8, **_128K, vocab_size=200_064, rope=PHI_4_MINI, tie_embeddings=True),
}
