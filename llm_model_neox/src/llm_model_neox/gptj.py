"""GPT-J in one file (github.com/kingoflolz/mesh-transformer-jax, 2021): one norm feeds attention and MLP of a layer.

Shapes: B batch, T time, C width, H heads, D head size, R dimensions of a head that turn, V vocabulary, S positions to
look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from llm_blocks import (
    INERT_KEYS,
    CacheShape,
    ConfigKeys,
    Decoder,
    Head,
    LayerNorm,
    Plan,
    Rope,
    RopeTable,
    TokenEmbedding,
    attend,
    merge_heads,
    pairs_to_halves,
    rope_table,
    rotate,
    split_heads,
)
from llm_model_neox.gelu import GELUS, require_gelu
from llm_sepweight import PartSpec

# Keys of published folders that change nothing in what the model computes, beyond those of every family.
_INERT = INERT_KEYS | {
    "gradient_checkpointing",
    "n_ctx",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. The first `rotary_dim` dimensions of a head turn, neighbour against neighbour."""

    model_type: ClassVar[str] = "gptj"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    max_positions: int
    rotary_dim: int
    norm_eps: float = 1e-5
    activation: str = "gelu_new"
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"a width of {self.dim} doesn't part into {self.num_heads} heads evenly")
        if self.rotary_dim % 2 or not 2 <= self.rotary_dim <= self.head_dim:
            raise ValueError(
                f"rotary_dim must be an even number from 2 to the head size {self.head_dim}, got {self.rotary_dim}"
            )
        require_gelu(self.activation)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("rotary", (True,), "a GPT-J knows positions by turning its heads")
        keys.require("scale_attn_weights", (True,), "scores must be divided by the root of the head size")
        dim, num_heads = keys.integer("n_embd"), keys.integer("n_head")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("n_inner", default=4 * dim),
            num_layers=keys.integer("n_layer"),
            num_heads=num_heads,
            max_positions=keys.integer("n_positions"),
            rotary_dim=keys.nullable_integer("rotary_dim", default=64) or dim // num_heads,  # null: the whole head
            norm_eps=keys.number("layer_norm_epsilon", default=1e-5),
            activation=keys.text("activation_function", default="gelu_new"),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=_INERT)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["GPTJForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "n_embd": self.dim,
            "n_inner": self.hidden_dim,
            "n_layer": self.num_layers,
            "n_head": self.num_heads,
            "n_positions": self.max_positions,
            "rotary_dim": self.rotary_dim,
            "layer_norm_epsilon": self.norm_eps,
            "activation_function": self.activation,
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(nn.Module):
    """Attention without biases. Its scores are fp32 whatever the dtype, as the model was trained."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        dim, self.layer, self.head_dim = config.dim, layer, config.head_dim
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        k, v, view = plan.remember(self.layer, rotate_pairs(k, rope), v)  # (B, H, S, D)
        return self.o(merge_heads(attend(rotate_pairs(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


def rotate_pairs(x: Tensor, rope: RopeTable) -> Tensor:
    """Turn the first R dimensions of each head of x (B, H, T, D), neighbour against neighbour.

    They come out evens first, then odds: queries and keys alike, so that their products are the same.
    """
    turning = rope[0].size(-1)
    turned = rotate(pairs_to_halves(x[..., :turning]), rope)
    return torch.cat((turned, x[..., turning:]), dim=-1) if turning < x.size(-1) else turned


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.hidden_dim)
        self.down = nn.Linear(config.hidden_dim, config.dim)
        self.activation = GELUS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))  # (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)  # the only one: the MLP reads it too
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        normed = self.attention_norm(x)
        return x + (self.attention(normed, rope, plan) + self.mlp(normed))


class Model(Decoder):
    """The layers of `part` of a GPT-J: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(LayerNorm(c.dim, eps=c.norm_eps), c.dim, c.vocab_size, bias=True),
            cache=CacheShape(num_kv_heads=c.num_heads, head_dim=c.head_dim),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        return rope_table(Rope(), self.config.rotary_dim, plan.positions, dtype=dtype)  # a table for R dimensions


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "transformer.wte.weight": "begin.embed.weight",
    "transformer.h.{i}.ln_1.weight": "mid.{i}.attention_norm.weight",
    "transformer.h.{i}.ln_1.bias": "mid.{i}.attention_norm.bias",
    "transformer.h.{i}.attn.q_proj.weight": "mid.{i}.attention.q.weight",
    "transformer.h.{i}.attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "transformer.h.{i}.attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "transformer.h.{i}.attn.out_proj.weight": "mid.{i}.attention.o.weight",
    "transformer.h.{i}.mlp.fc_in.weight": "mid.{i}.mlp.up.weight",
    "transformer.h.{i}.mlp.fc_in.bias": "mid.{i}.mlp.up.bias",
    "transformer.h.{i}.mlp.fc_out.weight": "mid.{i}.mlp.down.weight",
    "transformer.h.{i}.mlp.fc_out.bias": "mid.{i}.mlp.down.bias",
    "transformer.ln_f.weight": "end.norm.weight",
    "transformer.ln_f.bias": "end.norm.bias",
    "lm_head.weight": "end.head.weight",
    "lm_head.bias": "end.head.bias",
    # the causal mask, which older checkpoints carry along
    "transformer.h.{i}.attn.bias": "",
    "transformer.h.{i}.attn.masked_bias": "",
}

# The size people name, from its config.json
PRESETS: dict[str, Config] = {
    "gpt-j-6b": Config(
        vocab_size=50_400,
        dim=4096,
        hidden_dim=16_384,
        num_layers=28,
        num_heads=16,
        max_positions=2_048,
        rotary_dim=64,
    )
}
