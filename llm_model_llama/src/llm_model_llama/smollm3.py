"""SmolLM3 in one file: a Llama some of whose layers don't turn their heads (NoPE, arXiv 2501.18795) or see a window.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, L layers, S positions to look at.
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


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads.

    `rope_layers` says of each layer whether its heads turn, `sliding_layers` whether its positions see no more than the
    last `sliding_window` ones, themselves included.
    """

    model_type: ClassVar[str] = "smollm3"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_layers: tuple[bool, ...]
    sliding_layers: tuple[bool, ...]
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=lambda: Rope(theta=2_000_000.0))
    sliding_window: int | None = None
    tie_embeddings: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        if not len(self.rope_layers) == len(self.sliding_layers) == self.num_layers:
            lengths = f"{len(self.rope_layers)} and {len(self.sliding_layers)}"
            raise ValueError(f"rope_layers and sliding_layers need {self.num_layers} entries, they have {lengths}")
        if self.sliding_window is None and any(self.sliding_layers):
            raise ValueError("some layers have a window: use_sliding_window and sliding_window must say how long it is")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a SmolLM3 has silu")
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        max_positions, num_layers = keys.integer("max_position_embeddings"), keys.integer("num_hidden_layers")
        sliding = sliding_layers(keys, num_layers, every=1)  # none where the file doesn't say
        rope_layers = _rope_layers(keys, num_layers)
        window = keys.optional_integer("sliding_window")
        if not keys.flag("use_sliding_window", default=False):
            window = None
        if raw.get("layer_types") is None and window is not None:
            sliding = tuple(not turns for turns in rope_layers)
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=keys.nullable_integer("num_key_value_heads", default=4) or num_heads,
            head_dim=keys.integer("head_dim", default=dim // num_heads),
            max_positions=max_positions,
            rope_layers=rope_layers,
            sliding_layers=sliding,
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions, theta=2_000_000.0),
            sliding_window=window,
            tie_embeddings=keys.flag("tie_word_embeddings", default=True),  # the published files leave it out
            attention_bias=keys.flag("attention_bias", default=False),
            mlp_bias=keys.flag("mlp_bias", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"max_window_layers", "pretraining_tp"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        # where a file says nothing transformers pads with this id, and refuses a vocabulary that hasn't got it
        padding = {} if self.vocab_size > 128_004 else {"pad_token_id": None}
        return {
            "architectures": ["SmolLM3ForCausalLM"],
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
            "no_rope_layers": [int(turns) for turns in self.rope_layers],
            "use_sliding_window": self.sliding_window is not None,
            "sliding_window": self.sliding_window,
            "layer_types": layer_types(self.sliding_layers),
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
        } | padding


def _rope_layers(keys: ConfigKeys, num_layers: int) -> tuple[bool, ...]:
    """Which layers turn their heads: those with a 1 in `no_rope_layers`; without that key all but every nth."""
    interval = keys.integer("no_rope_layer_interval", default=4)
    pattern = [int(layer % interval != 0) for layer in range(1, num_layers + 1)]
    listed = keys.counts("no_rope_layers", default=pattern)
    if len(listed) < num_layers or max(listed) > 1:  # more than there are layers may be listed
        raise ValueError(f"no_rope_layers must have a 0 or 1 for each of {num_layers} layers, got {listed[:100]}")
    return tuple(bool(turns) for turns in listed[:num_layers])


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim, self.turns = layer, c.head_dim, c.rope_layers[layer]
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        if self.turns:
            q, k = rotate(q, rope), rotate(k, rope)
        k, v, view = plan.remember(self.layer, k, v)  # (B, K, S, D)
        return self.o(merge_heads(attend(q, k, v, view)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.hidden_dim, bias=config.mlp_bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a SmolLM3: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        windows = tuple(c.sliding_window if slides else None for slides in c.sliding_layers)
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

# The one size there is, from the config.json of its release
PRESETS: dict[str, Config] = {
    "SmolLM3-3B": Config(
        vocab_size=128_256,
        dim=2_048,
        hidden_dim=11_008,
        num_layers=36,
        num_heads=16,
        num_kv_heads=4,
        head_dim=128,
        max_positions=65_536,
        rope_layers=(True, True, True, False) * 9,
        sliding_layers=(False,) * 36,
        rope=Rope(theta=5_000_000.0),
    )
}
