"""Llama in one file: config, attention, MLP, block, model, names in files, sizes people name (arXiv 2302.13971).

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, L layers, S cache length.
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
from llm_sepweight import PartSpec

# Keys of Llama folders that change nothing in what the model computes, beyond those of every family.
_INERT = INERT_KEYS | {"is_llama_config", "max_sequence_length", "pretraining_tp"}
_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("hidden_act", ("silu", "swish"), "a Llama has silu"),
    ("activation", ("swiglu",), "a Llama has silu and a gate"),  # Falcon 3 says so beside hidden_act
    ("rope_interleaved", (False,), "heads must turn their first half against the second"),
    ("use_sliding_window", (False,), "each position sees all earlier ones"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. `max_positions` is the context that the model was trained or extended for."""

    model_type: ClassVar[str] = "llama"

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
    tie_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        widest = max(self.vocab_size, self.dim, self.hidden_dim, self.num_heads * self.head_dim)
        if widest > 2**28:  # bytes of a weight are counted in 63 bits
            raise ValueError(f"a vocabulary or width of {widest} is not supported: the limit is 2^28")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        head_dim = keys.optional_integer("head_dim")
        if head_dim is None and dim % num_heads:
            raise ValueError(f"hidden_size {dim} doesn't part into {num_heads} heads evenly, and head_dim is missing")
        length, old = "max_position_embeddings", "max_sequence_length"  # conversions of LLaMA 1 have the old one alone
        max_positions = keys.optional_integer(length) or keys.optional_integer(old) or keys.integer(length)
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
            head_dim=head_dim or dim // num_heads,
            max_positions=max_positions,
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
            attention_bias=keys.flag("attention_bias", default=False),
            mlp_bias=keys.flag("mlp_bias", default=False),
        )
        keys.finish(inert=_INERT)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["LlamaForCausalLM"],
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
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
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
        self.mlp = GatedMLP(config.dim, config.hidden_dim, bias=config.mlp_bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a Llama: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(RMSNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.head_dim, dtype=dtype)


# Hugging Face's name -> ours, for every tensor that a Llama may have
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


def _preset(layers: int, dim: int, hidden: int, heads: int, kv_heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"vocab_size": 32_000, "max_positions": 4_096} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden}
    return Config(num_heads=heads, num_kv_heads=kv_heads, head_dim=dim // heads, **values)


_LLAMA3: dict[str, Any] = {"kind": "llama3", "theta": 500_000.0, "original_max_positions": 8_192}
_V3: dict[str, Any] = {"vocab_size": 128_256, "max_positions": 8_192, "rope": Rope(theta=500_000.0)}
_V31: dict[str, Any] = {"vocab_size": 128_256, "max_positions": 131_072, "rope": Rope(factor=8.0, **_LLAMA3)}
_V32: dict[str, Any] = _V31 | {"rope": Rope(factor=32.0, **_LLAMA3), "tie_embeddings": True}
_CODE: dict[str, Any] = {"vocab_size": 32_016, "max_positions": 16_384, "rope": Rope(theta=1_000_000.0)}

# The sizes people name, from the config.json of each release: layers, C, hidden width, H, K
PRESETS: dict[str, Config] = {
    "TinyLlama-1.1B": _preset(22, 2048, 5632, 32, 4, max_positions=2_048),
    "Llama-2-7b": _preset(32, 4096, 11008, 32, 32),
    "Llama-2-13b": _preset(40, 5120, 13824, 40, 40),
    "Llama-2-70b": _preset(80, 8192, 28672, 64, 8),
    "Llama-3-8B": _preset(32, 4096, 14336, 32, 8, **_V3),
    "Llama-3-70B": _preset(80, 8192, 28672, 64, 8, **_V3),
    "Llama-3.1-8B": _preset(32, 4096, 14336, 32, 8, **_V31),
    "Llama-3.1-70B": _preset(80, 8192, 28672, 64, 8, **_V31),
    "Llama-3.1-405B": _preset(126, 16384, 53248, 128, 8, **_V31),
    "Llama-3.2-1B": _preset(16, 2048, 8192, 32, 8, **_V32),
    "Llama-3.2-3B": _preset(28, 3072, 8192, 24, 8, **_V32),
    "CodeLlama-7b": _preset(32, 4096, 11008, 32, 32, **_CODE),
    "CodeLlama-13b": _preset(40, 5120, 13824, 40, 40, **_CODE),
    "CodeLlama-34b": _preset(48, 8192, 22016, 64, 8, **(_CODE | {"vocab_size": 32_000})),
    "CodeLlama-70b": _preset(80, 8192, 28672, 64, 8, **_CODE),
}
