"""Gemma 3 in one file (arXiv 2503.19786): a Gemma 2 whose queries and keys are normalised instead of its scores capped,
with a sliding window on five layers of six, and other rotary angles there. Of a model that sees images: its text tower.

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
    ("hidden_activation", (_GELU,), "a Gemma 3 has GELU in its approximation with tanh"),
    ("hidden_act", (_GELU, "gelu"), "a Gemma 3 has GELU"),  # beside the former, which decides
    ("attention_bias", (False,), "its projections have no biases"),
    ("use_bidirectional_attention", (False,), "a position sees earlier ones alone"),
)
# What a text_config that doesn't say it means: the published ones say only what differs from this.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
}
_IMAGES = {f"{kind}_token_{number}" for kind in ("boi", "eoi", "image") for number in ("id", "index")}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. In layers where `sliding_layers` is true a position sees the last `sliding_window`
    ones, itself included, and heads turn by `local_rope`; in others it sees all, and they turn by `rope`. Scores are
    divided by the root of `attention_scalar`; the caps bound scores and logits (None: not).
    """

    model_type: ClassVar[str] = "gemma3_text"

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
    rope: Rope
    local_rope: Rope = field(default_factory=Rope)
    attention_cap: float | None = None
    logit_cap: float | None = None
    norm_eps: float = 1e-6
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
        """Read a config.json, of a text model or of one that sees images. ValueError names what can't be honoured."""
        keys = ConfigKeys(raw if raw.get("text_config") is None else _of_text(raw))
        keys.require_unquantized()
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
        num_layers, max_positions = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
        rope, local_rope = _ropes(keys, max_positions)
        period = keys.integer("_sliding_window_pattern", default=6)  # as transformers notes it
        period = keys.integer("sliding_window_pattern", default=period)
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
            sliding_window=keys.nullable_integer("sliding_window", default=4096),
            sliding_layers=sliding_layers(keys, num_layers, every=period),
            rope=rope,
            local_rope=local_rope,
            attention_cap=keys.optional_number("attn_logit_softcapping"),
            logit_cap=keys.optional_number("final_logit_softcapping"),
            norm_eps=keys.number("rms_norm_eps"),
            tie_embeddings=keys.flag("tie_word_embeddings", default=True),  # published files don't say it
        )
        keys.finish(inert=INERT_KEYS | {"cache_implementation"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json of a text model, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Gemma3ForCausalLM"],
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
            "rope_parameters": {
                "full_attention": rope_to_hf(self.rope),
                "sliding_attention": rope_to_hf(self.local_rope),
            },
            "tie_word_embeddings": self.tie_embeddings,
        }


def _of_text(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that the text tower of a model that sees images would have alone."""
    keys = ConfigKeys(raw)
    keys.require_unquantized()
    text = keys.optional_mapping("text_config") or {}
    inner = ConfigKeys(text, where="text_config")
    inner.require("model_type", ("gemma3_text",), "its text tower must be a Gemma 3")
    tied = keys.flag("tie_word_embeddings", default=inner.flag("tie_word_embeddings", default=True))
    keys.finish(inert=INERT_KEYS | _IMAGES | {"vision_config", "mm_tokens_per_image"})
    said = {key: value for key, value in text.items() if value is not None or key == "sliding_window"}
    return _DEFAULTS | said | {"tie_word_embeddings": tied}


def _ropes(keys: ConfigKeys, max_positions: int) -> tuple[Rope, Rope]:
    """The rotary settings of layers that see all and of those with a window; `rope_scaling` is for the former alone."""
    kinds = ConfigKeys(keys.optional_mapping("rope_parameters") or {}, where="rope_parameters")
    full: dict[str, Any] = {"rope_parameters": kinds.optional_mapping("full_attention")}
    full |= {"rope_theta": keys.optional_number("rope_theta"), "rope_scaling": keys.optional_mapping("rope_scaling")}
    local: dict[str, Any] = {"rope_parameters": kinds.optional_mapping("sliding_attention")}
    local |= {"rope_theta": keys.optional_number("rope_local_base_freq")}
    kinds.finish(inert=())
    rope = parse_rope(ConfigKeys(full), max_positions=max_positions, theta=1_000_000.0)
    return rope, parse_rope(ConfigKeys(local), max_positions=max_positions, theta=10_000.0)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim, self.sliding = layer, c.head_dim, c.sliding_layers[layer]
        scale, cap = c.attention_scalar**-0.5, c.attention_cap
        self.attend = partial(attend, scale=scale) if cap is None else partial(attend_softcapped, scale=scale, cap=cap)
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=False)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)
        self.q_norm = OffsetRMSNorm(c.head_dim, c.norm_eps)
        self.k_norm = OffsetRMSNorm(c.head_dim, c.norm_eps)

    def forward(self, x: Tensor, ropes: dict[bool, RopeTable], plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        q, k = (rotate(each, ropes[self.sliding]) for each in (self.q_norm(q), self.k_norm(k)))
        k, v, view = plan.remember(self.layer, k, v)  # (B, K, S, D)
        return self.o(merge_heads(self.attend(q, k, v, view)))  # (B, H, T, D) -> (B, T, C)


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

    def forward(self, x: Tensor, ropes: dict[bool, RopeTable], plan: Plan) -> Tensor:
        x = x + self.post_attention_norm(self.attention(self.attention_norm(x), ropes, plan))
        return x + self.post_mlp_norm(self.mlp(self.mlp_norm(x)))


class Model(Decoder):
    """The layers of `part` of a Gemma 3: see `Decoder` for what goes in and comes out."""

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
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, windows=windows),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> dict[bool, RopeTable]:
        """The angles of layers with a sliding window (True) and of those without, as far as the part has them."""
        c = self.config

        def table(rope: Rope) -> RopeTable:
            return plan.rope_table(rope, c.head_dim, dtype=dtype)

        return {s: table(c.local_rope if s else c.rope) for s in {c.sliding_layers[layer] for layer in self.windows}}


_LAYER: dict[str, str] = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.q",
    "self_attn.k_proj": "attention.k",
    "self_attn.v_proj": "attention.v",
    "self_attn.o_proj": "attention.o",
    "self_attn.q_norm": "attention.q_norm",
    "self_attn.k_norm": "attention.k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "mlp.gate_proj": "mlp.gate",
    "mlp.up_proj": "mlp.up",
    "mlp.down_proj": "mlp.down",
    "post_feedforward_layernorm": "post_mlp_norm",
}


def _names(tower: str, head: str) -> dict[str, str]:
    layer = {f"{tower}.layers.{{i}}.{theirs}.weight": f"mid.{{i}}.{ours}.weight" for theirs, ours in _LAYER.items()}
    ends = {f"{tower}.norm.weight": "end.norm.weight", f"{head}.weight": "end.head.weight"}
    return {f"{tower}.embed_tokens.weight": "begin.embed.weight"} | layer | ends


# Hugging Face's name -> ours: of a text model, of one that sees images as published, and as transformers 5 keeps that
NAMES: dict[str, str] = {
    **_names("model", "lm_head"),
    **_names("language_model.model", "language_model.lm_head"),
    **_names("model.language_model", "lm_head"),
    **{f"{root}{part}.*": "" for root in ("", "model.") for part in ("vision_tower", "multi_modal_projector")},
}


def _preset(layers: int, dim: int, hidden: int, heads: int, kv_heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "num_heads": heads}
    values |= {"head_dim": 256, "attention_scalar": 256} | more
    return Config(num_kv_heads=kv_heads, sliding_layers=tuple((i + 1) % 6 != 0 for i in range(layers)), **values)


_SHORT, _LONG = Rope(theta=1e6), Rope(kind="linear", theta=1e6, factor=8.0)
_SMALL: dict[str, Any] = {"vocab_size": 262_144, "max_positions": 32_768, "sliding_window": 512, "rope": _SHORT}
_LARGE: dict[str, Any] = {"vocab_size": 262_208, "max_positions": 131_072, "sliding_window": 1024, "rope": _LONG}

# The sizes people name, from the config.json of each release: layers, C, hidden width, H, K
PRESETS: dict[str, Config] = {
    "gemma-3-270m": _preset(18, 640, 2048, 4, 1, **_SMALL),
    "gemma-3-1b": _preset(26, 1152, 6912, 4, 1, **_SMALL),
    "gemma-3-4b": _preset(34, 2560, 10240, 8, 4, **_LARGE),
    "gemma-3-12b": _preset(48, 3840, 15360, 16, 8, **_LARGE),
    "gemma-3-27b": _preset(62, 5376, 21504, 32, 16, **_LARGE, head_dim=128, attention_scalar=168),
}
