"""Falcon in one file: config, attention, MLP, blocks, model, names in files, sizes people name (arXiv 2311.16867).

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, S positions to look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from llm_blocks import (
    INERT_KEYS,
    CacheShape,
    ConfigKeys,
    Decoder,
    Fused,
    Head,
    LayerNorm,
    Parts,
    Plan,
    Rope,
    RopeTable,
    TokenEmbedding,
    alibi_slopes,
    attend,
    attend_alibi,
    gelu,
    merge_heads,
    parse_rope,
    qkv_parts,
    require_heads,
    rope_to_hf,
    rotate,
)
from llm_sepweight import PartSpec


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. Without `rope` attention has linear biases (ALiBi).

    `layout` says how a layer is wired. "shared_norm": attention and MLP side by side behind one norm; "two_norms": side
    by side, each behind its own; "sequential": the MLP after attention, each behind its own.
    """

    model_type: ClassVar[str] = "falcon"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_positions: int
    layout: str
    norm_eps: float = 1e-5
    rope: Rope | None = field(default_factory=Rope)
    tie_embeddings: bool = True
    bias: bool = False

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def __post_init__(self) -> None:
        if self.layout not in _BLOCKS:
            raise ValueError(f"layout must be one of {', '.join(_BLOCKS)}, got {self.layout!r}")
        if self.dim % self.num_heads:
            raise ValueError(f"a width of {self.dim} doesn't part into {self.num_heads} heads evenly")
        require_heads(self.num_heads, self.num_kv_heads)
        if self.layout == "sequential" and self.num_kv_heads not in (1, self.num_heads):
            raise ValueError(f"a sequential Falcon has 1 or all {self.num_heads} kv heads, got {self.num_kv_heads}")
        if self.rope is not None and self.head_dim % 2:
            raise ValueError(f"heads turn in pairs of dimensions, so their size must be even, got {self.head_dim}")

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("model_type", ("falcon", "RefinedWeb", "RefinedWebModel"), "it isn't a Falcon")  # two are old
        keys.require("activation", ("gelu",), "a Falcon has the exact GELU")
        keys.require("apply_residual_connection_post_layernorm", (False,), "the residual must not be normalised")
        dim, num_heads = _integer(keys, "hidden_size", "n_embed"), _integer(keys, "num_attention_heads", "n_head")
        hidden_dim = keys.integer("ffn_hidden_size", default=4 * dim)
        keys.require("ff_factor", (hidden_dim / dim,), f"the MLP is {hidden_dim} wide and the model {dim}")
        layout, num_kv_heads = _wiring(keys, num_heads)
        max_positions = keys.integer("max_position_embeddings", default=2048)
        rope = parse_rope(keys, max_positions=max_positions)  # spelt out beside alibi, too
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=hidden_dim,
            num_layers=_integer(keys, "num_hidden_layers", "n_layer"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            max_positions=max_positions,
            layout=layout,
            norm_eps=keys.number("layer_norm_epsilon", default=1e-5),
            rope=None if keys.flag("alibi", default=False) else rope,
            tie_embeddings=keys.flag("tie_word_embeddings", default=True),
            bias=keys.flag("bias", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"custom_pipelines", "hidden_dropout"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["FalconForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "ffn_hidden_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "multi_query": self.num_kv_heads == 1,
            "new_decoder_architecture": self.layout == "two_norms" or 1 < self.num_kv_heads < self.num_heads,
            "parallel_attn": self.layout != "sequential",
            "num_ln_in_parallel_attn": {"shared_norm": 1, "two_norms": 2}.get(self.layout),
            "activation": "gelu",
            "bias": self.bias,
            "alibi": self.rope is None,
            **({} if self.rope is None else {"rope_parameters": rope_to_hf(self.rope)}),
            "max_position_embeddings": self.max_positions,
            "layer_norm_epsilon": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
        }


def _integer(keys: ConfigKeys, key: str, older: str, **default: int) -> int:
    """A whole number that may have an older name; a file with both must not contradict itself."""
    new, old = keys.optional_integer(key), keys.optional_integer(older)
    if new and old and new != old:
        raise ValueError(f"config.json has {key} = {new} and {older} = {old}; keep the one that the weights have")
    return new or old or keys.integer(key, **default)


def _wiring(keys: ConfigKeys, num_heads: int) -> tuple[str, int]:
    """The layout of a layer and the number of kv heads, which files tell by five keys and, once, by the model_type."""
    kind = keys.text("model_type", default="falcon")
    new = keys.flag("new_decoder_architecture", default=kind == "RefinedWeb")  # a 40B; all others: RefinedWebModel
    # the code beside older files took absent flags as false, transformers takes them as true: they must be there
    default: dict[str, bool] = {"default": True} if new or kind == "falcon" else {}
    parallel, multi_query = keys.flag("parallel_attn", **default), keys.flag("multi_query", **default)
    norms = keys.integer("num_ln_in_parallel_attn", default=2 if new else 1)
    num_kv_heads = _integer(keys, "num_kv_heads", "n_head_kv", default=num_heads)
    if new and not parallel:
        raise ValueError("parallel_attn is false, but with new_decoder_architecture attention is always parallel")
    if norms > 2 or (norms == 2 and parallel and not new):
        raise ValueError(f"num_ln_in_parallel_attn is {norms}; it may be 1, or 2 with new_decoder_architecture")
    if not new and multi_query:
        num_kv_heads = 1  # transformers writes the number of heads as num_kv_heads then
    elif not new and num_kv_heads != num_heads:
        raise ValueError(f"num_kv_heads is {num_kv_heads} of {num_heads}, which needs new_decoder_architecture")
    return "sequential" if not parallel else "two_norms" if norms == 2 else "shared_norm", num_kv_heads


class Context(NamedTuple):
    """What marks the positions: tables of angles, or the slope of each head (H,)."""

    rope: RopeTable | None
    slopes: Tensor | None


class Attention(Fused):
    def __init__(self, c: Config, layer: int) -> None:
        super().__init__()
        self.layer, self.num_kv_heads, self.head_dim = layer, c.num_kv_heads, c.head_dim
        self.qkv = nn.Linear(c.dim, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim, bias=c.bias)
        self.o = nn.Linear(c.dim, c.dim, bias=c.bias)

    def forward(self, x: Tensor, context: Context, plan: Plan) -> Tensor:
        # the queries of a kv head, then its key and its value: with one kv head, or one for each head, no less
        qkv = self.qkv(x).unflatten(-1, (self.num_kv_heads, -1, self.head_dim))  # (B, T, K, H/K + 2, D)
        q = qkv[..., :-2, :].flatten(2, 3).transpose(1, 2)  # (B, H, T, D)
        k, v = (qkv[..., i, :].transpose(1, 2) for i in (-2, -1))  # (B, K, T, D)
        if context.rope is not None:
            q, k = rotate(q, context.rope), rotate(k, context.rope)
        k, v, view = plan.remember(self.layer, k, v)  # (B, K, S, D)
        if context.slopes is not None:
            return self.o(merge_heads(attend_alibi(q, k, v, view, slopes=context.slopes)))
        return self.o(merge_heads(attend(q, k, v, view)))  # (B, H, T, D) -> (B, T, C)

    def parts(self) -> dict[str, Parts]:
        return {"qkv": qkv_parts(self.o.in_features // self.num_kv_heads, self.head_dim, groups=self.num_kv_heads)}


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.hidden_dim, bias=config.bias)
        self.down = nn.Linear(config.hidden_dim, config.dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


# The norms of the three are named apart as they are in files, for NAMES gives each name one way back.
class SharedNormBlock(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.input_norm = LayerNorm(config.dim, config.norm_eps)
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(self, x: Tensor, context: Context, plan: Plan) -> Tensor:
        y = self.input_norm(x)
        return x + (self.mlp(y) + self.attention(y, context, plan))


class TwoNormsBlock(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = (LayerNorm(config.dim, config.norm_eps) for _ in range(2))
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(self, x: Tensor, context: Context, plan: Plan) -> Tensor:
        return x + (self.mlp(self.mlp_norm(x)) + self.attention(self.attention_norm(x), context, plan))


class SequentialBlock(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.input_norm, self.post_attention_norm = (LayerNorm(config.dim, config.norm_eps) for _ in range(2))
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(self, x: Tensor, context: Context, plan: Plan) -> Tensor:
        x = x + self.attention(self.input_norm(x), context, plan)
        return x + self.mlp(self.post_attention_norm(x))


_BLOCKS = {"shared_norm": SharedNormBlock, "two_norms": TwoNormsBlock, "sequential": SequentialBlock}


class Model(Decoder):
    """The layers of `part` of a Falcon: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: _BLOCKS[c.layout](c, layer),
            end=lambda: Head(LayerNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, long_from=c.rope and c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> Context:
        c = self.config
        if c.rope is None:  # its biases are added before the scores are scaled, so they are scaled as well
            slopes = (alibi_slopes(c.num_heads) * c.head_dim**-0.5).to(plan.positions.device)
            return Context(rope=None, slopes=slopes)
        return Context(rope=plan.rope_table(c.rope, c.head_dim, dtype=dtype), slopes=None)


# Hugging Face's name -> ours, for every tensor that a Falcon may have
NAMES: dict[str, str] = {
    "transformer.word_embeddings.weight": "begin.embed.weight",
    "transformer.h.{i}.input_layernorm.weight": "mid.{i}.input_norm.weight",
    "transformer.h.{i}.input_layernorm.bias": "mid.{i}.input_norm.bias",
    "transformer.h.{i}.post_attention_layernorm.weight": "mid.{i}.post_attention_norm.weight",
    "transformer.h.{i}.post_attention_layernorm.bias": "mid.{i}.post_attention_norm.bias",
    "transformer.h.{i}.ln_attn.weight": "mid.{i}.attention_norm.weight",
    "transformer.h.{i}.ln_attn.bias": "mid.{i}.attention_norm.bias",
    "transformer.h.{i}.ln_mlp.weight": "mid.{i}.mlp_norm.weight",
    "transformer.h.{i}.ln_mlp.bias": "mid.{i}.mlp_norm.bias",
    "transformer.h.{i}.self_attention.query_key_value.weight": "mid.{i}.attention.qkv.weight",
    "transformer.h.{i}.self_attention.query_key_value.bias": "mid.{i}.attention.qkv.bias",
    "transformer.h.{i}.self_attention.dense.weight": "mid.{i}.attention.o.weight",
    "transformer.h.{i}.self_attention.dense.bias": "mid.{i}.attention.o.bias",
    "transformer.h.{i}.mlp.dense_h_to_4h.weight": "mid.{i}.mlp.up.weight",
    "transformer.h.{i}.mlp.dense_h_to_4h.bias": "mid.{i}.mlp.up.bias",
    "transformer.h.{i}.mlp.dense_4h_to_h.weight": "mid.{i}.mlp.down.weight",
    "transformer.h.{i}.mlp.dense_4h_to_h.bias": "mid.{i}.mlp.down.bias",
    "transformer.ln_f.weight": "end.norm.weight",
    "transformer.ln_f.bias": "end.norm.bias",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, heads: int, kv_heads: int, layout: str, **more: Any) -> Config:
    values: dict[str, Any] = {"vocab_size": 65_024, "max_positions": 2_048, "layout": layout} | more
    return Config(num_layers=layers, dim=dim, hidden_dim=4 * dim, num_heads=heads, num_kv_heads=kv_heads, **values)


_FALCON2: dict[str, Any] = {"max_positions": 8_192, "rope": Rope(theta=500_042.0), "tie_embeddings": False}

# The sizes people name, from the config.json of each release: layers, C, H, K, layout
PRESETS: dict[str, Config] = {
    "falcon-7b": _preset(32, 4544, 71, 1, "shared_norm"),
    "falcon-40b": _preset(60, 8192, 128, 8, "two_norms"),
    "falcon-180B": _preset(80, 14848, 232, 8, "two_norms"),
    "falcon-rw-1b": _preset(24, 2048, 32, 32, "sequential", vocab_size=50_304, rope=None, bias=True),
    "falcon-rw-7b": _preset(36, 4096, 64, 64, "sequential", rope=None, bias=True),
    "falcon-11B": _preset(60, 4096, 32, 8, "shared_norm", **_FALCON2),
}
