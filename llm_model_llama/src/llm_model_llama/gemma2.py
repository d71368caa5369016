"""Gemma 2 in one file (arXiv 2408.00118): a Gemma with norms on both sides of each layer, capped scores and logits,
and a sliding window on every second layer.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, S positions to look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
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
    SoftcappedHead,
    attend,
    attend_softcapped,
    gelu_tanh,
    layer_types,
    merge_heads,
    parse_rope,
    require_heads,
    rope_to_hf,
    rotate,
    sliding_layers,
    split_heads,
)
from llm_sepweight import PartSpec

_GELU = "gelu_pytorch_tanh"
_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("hidden_activation", (_GELU,), "a Gemma 2 has GELU in its approximation with tanh"),
    ("hidden_act", (_GELU, "gelu"), "a Gemma 2 has GELU"),  # beside the former, which decides
    ("attention_bias", (False,), "its projections have no biases"),
    ("use_bidirectional_attention", (False,), "a position sees earlier ones alone"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads.

    In the layers where `sliding_layers` is true a position sees the last `sliding_window` ones, itself included, in
    the others all. Scores are divided by the root of `attention_scalar`. The caps bound scores and logits; None: not.
    """

    model_type: ClassVar[str] = "gemma2"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    attention_scalar: int
    sliding_window: int | None
    sliding_layers: tuple[bool, ...]
    attention_cap: float | None = 50.0
    logit_cap: float | None = 30.0
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        if len(self.sliding_layers) != self.num_layers:
            raise ValueError(f"sliding_layers has {len(self.sliding_layers)} entries for {self.num_layers} layers")
        if self.sliding_window is None and any(self.sliding_layers):
            raise ValueError("some layers have a sliding window, so sliding_window must be its size, not null")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
        num_layers, max_positions = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
        window = keys.nullable_integer("sliding_window", default=4096)
        keys.require("sliding_window_size", (window,), "it is the same as sliding_window")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=keys.integer("hidden_size"),
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=keys.integer("num_attention_heads"),
            num_kv_heads=keys.integer("num_key_value_heads"),
            head_dim=keys.integer("head_dim"),
            max_positions=max_positions,
            attention_scalar=keys.integer("query_pre_attn_scalar"),
            sliding_window=window,
            sliding_layers=sliding_layers(keys, num_layers, every=2),
            attention_cap=keys.nullable_number("attn_logit_softcapping", default=50.0),
            logit_cap=keys.nullable_number("final_logit_softcapping", default=30.0),
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions),
            tie_embeddings=keys.flag("tie_word_embeddings", default=True),  # published files don't say it
        )
        keys.finish(inert=INERT_KEYS | {"cache_implementation"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_activation": _GELU,
            "max_position_embeddings": self.max_positions,
            "query_pre_attn_scalar": self.attention_scalar,
            "sliding_window": self.sliding_window,
            "layer_types": layer_types(self.sliding_layers),
            "attn_logit_softcapping": self.attention_cap,
            "final_logit_softcapping": self.logit_cap,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim = layer, c.head_dim
        scale, cap = c.attention_scalar**-0.5, c.attention_cap
        self.attend = partial(attend, scale=scale) if cap is None else partial(attend_softcapped, scale=scale, cap=cap)
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=False)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(self.attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.attention_norm = OffsetRMSNorm(dim, eps)
        self.attention = Attention(config, layer)
        self.post_attention_norm = OffsetRMSNorm(dim, eps)
        self.mlp_norm = OffsetRMSNorm(dim, eps)
        self.mlp = GatedMLP(dim, config.hidden_dim, activation=gelu_tanh)
        self.post_mlp_norm = OffsetRMSNorm(dim, eps)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.post_attention_norm(self.attention(self.attention_norm(x), rope, plan))
        return x + self.post_mlp_norm(self.mlp(self.mlp_norm(x)))


class Model(Decoder):
    """The layers of `part` of a Gemma 2: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        windows = tuple(c.sliding_window if sliding else None for sliding in c.sliding_layers)
        head = Head if c.logit_cap is None else partial(SoftcappedHead, cap=c.logit_cap)
        super().__init__(
            c,
            part,
            begin=lambda: ScaledEmbedding(c.vocab_size, c.dim, c.dim**0.5),
            block=lambda layer: Block(c, layer),
            end=lambda: head(OffsetRMSNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
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
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.post_attention_norm.weight",
    "model.layers.{i}.pre_feedforward_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.layers.{i}.post_feedforward_layernorm.weight": "mid.{i}.post_mlp_norm.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"vocab_size": 256_000, "max_positions": 8_192, "head_dim": 256, "attention_scalar": 256}
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "num_heads": heads, "num_kv_heads": heads // 2}
    return Config(sliding_window=4096, sliding_layers=(True, False) * (layers // 2), **(values | more))


# The sizes people name, from the config.json of each release: layers, C, hidden width, H
PRESETS: dict[str, Config] = {
    "gemma-2-2b": _preset(26, 2304, 9216, 8),
    "gemma-2-9b": _preset(42, 3584, 14336, 16),
    "gemma-2-27b": _preset(46, 4608, 36864, 32, head_dim=128, attention_scalar=144),
}
