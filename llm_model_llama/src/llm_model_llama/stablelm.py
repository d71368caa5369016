"""StableLM in one file (arXiv 2402.17834): LayerNorm with biases, heads that turn in part, one or two residual sums.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, S positions to look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_blocks import (
    INERT_KEYS,
    CacheShape,
    ConfigKeys,
    Decoder,
    GatedMLP,
    Head,
    LayerNorm,
    Plan,
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

_SHARE = "partial_rotary_factor"
_OLDER = {"rope_pct": _SHARE, "norm_eps": "layer_norm_eps"}  # as the first releases spelt them


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. With `parallel_residual`, attention and MLP of a layer read the same norm."""

    model_type: ClassVar[str] = "stablelm"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_positions: int
    norm_eps: float = 1e-5
    rope: Rope = field(default_factory=lambda: Rope(partial=0.25))
    qkv_bias: bool = False
    qk_norm: bool = False
    parallel_residual: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads)
        if self.dim % self.num_heads:
            raise ValueError(f"hidden_size {self.dim} doesn't part into {self.num_heads} heads evenly")
        self.rope.require_fits(self.head_dim)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(_spelt_out(raw))
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a StableLM has silu")
        keys.require("rotary_scaling_factor", (1,), "say it with rope_scaling")
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        keys.require("head_dim", (dim // num_heads,), "a head has its share of hidden_size")
        max_positions = keys.integer("max_position_embeddings")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads"),
            max_positions=max_positions,
            norm_eps=keys.number("layer_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions, partial=0.25),
            qkv_bias=keys.flag("use_qkv_bias", default=False),
            qk_norm=keys.flag("qk_layernorm", default=False),
            parallel_residual=keys.flag("use_parallel_residual", default=False),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"hidden_dropout"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["StableLmForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "layer_norm_eps": self.norm_eps,
            # said even where it is 1, for its absence means a quarter here
            "rope_parameters": rope_to_hf(self.rope) | {_SHARE: self.rope.partial},
            "use_qkv_bias": self.qkv_bias,
            "qk_layernorm": self.qk_norm,
            "use_parallel_residual": self.parallel_residual,
            "tie_word_embeddings": self.tie_embeddings,
        }


def _spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The keys under their names of today."""
    keys = dict(raw)
    for old, new in _OLDER.items():
        if keys.get(old) is not None and keys.get(new) is None:  # a file with both is refused: one is not read
            keys[new] = keys.pop(old)
    return keys


class HeadNorms(nn.ModuleList):
    """A LayerNorm without bias for each head, whose weights (D,) lie one by one in files (arXiv 2302.05442)."""

    def __init__(self, heads: int, head_dim: int, eps: float) -> None:
        super().__init__(nn.ModuleDict({"norm": LayerNorm(head_dim, eps, bias=False)}) for _ in range(heads))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat(list(self.parameters()))  # (H * D,)
        # heads are the groups of a group norm, which is one call for all of them
        return F.group_norm(x.flatten(0, 1), len(self), weight, eps=self.eps).view_as(x)  # (B, T, H * D)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.qkv_bias
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.dim, c.dim, bias=False)
        self.q_norm = HeadNorms(c.num_heads, c.head_dim, c.norm_eps) if c.qk_norm else nn.Identity()
        self.k_norm = HeadNorms(c.num_kv_heads, c.head_dim, c.norm_eps) if c.qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = self.q_norm(self.q(x)), self.k_norm(self.k(x)), self.v(x)  # (B, T, H D), two of (B, T, K D)
        q, k, v = (split_heads(each, self.head_dim) for each in (q, k, v))
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    """Attention, then MLP, each on a norm of what came before."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.dim, config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class ParallelBlock(nn.Module):
    """Attention and MLP side by side, on the same norm."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp = GatedMLP(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        y = self.attention_norm(x)
        return x + self.attention(y, rope, plan) + self.mlp(y)


class Model(Decoder):
    """The layers of `part` of a StableLM: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: (ParallelBlock if c.parallel_residual else Block)(c, layer),
            end=lambda: Head(LayerNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.head_dim, dtype=dtype)


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "model.embed_tokens.weight": "begin.embed.weight",
    "model.layers.{i}.input_layernorm.weight": "mid.{i}.attention_norm.weight",
    "model.layers.{i}.input_layernorm.bias": "mid.{i}.attention_norm.bias",
    "model.layers.{i}.self_attn.q_proj.weight": "mid.{i}.attention.q.weight",
    "model.layers.{i}.self_attn.q_proj.bias": "mid.{i}.attention.q.bias",
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.k_proj.bias": "mid.{i}.attention.k.bias",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.v_proj.bias": "mid.{i}.attention.v.bias",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.self_attn.q_layernorm.norms.{e}.weight": "mid.{i}.attention.q_norm.{e}.norm.weight",
    "model.layers.{i}.self_attn.k_layernorm.norms.{e}.weight": "mid.{i}.attention.k_norm.{e}.norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.post_attention_layernorm.bias": "mid.{i}.mlp_norm.bias",
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "model.norm.bias": "end.norm.bias",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, kv_heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"vocab_size": 100_352, "max_positions": 4_096} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden}
    return Config(num_heads=32, num_kv_heads=kv_heads, **values)


_CODE: dict[str, Any] = {"max_positions": 16_384, "rope": Rope(theta=1_000_000.0, partial=0.25)}

# The sizes people name, from the config.json of each release: layers, C, hidden width, K
PRESETS: dict[str, Config] = {
    "stablelm-3b-4e1t": _preset(32, 2560, 6912, 32, vocab_size=50_304),
    "stablelm-zephyr-3b": _preset(32, 2560, 6912, 32, vocab_size=50_304),
    "stable-code-3b": _preset(32, 2560, 6912, 32, vocab_size=50_304, **_CODE),
    "stablelm-2-1_6b": _preset(24, 2048, 5632, 32, qkv_bias=True),
    "stablelm-2-12b": _preset(40, 5120, 13824, 8, qk_norm=True, parallel_residual=True),
}
