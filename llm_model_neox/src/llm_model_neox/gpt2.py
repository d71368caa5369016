"""GPT-2 in one file ("Language Models are Unsupervised Multitask Learners", 2019): learned positions, tied head.

Shapes: B batch, T time, C width, H heads, D head size, V vocabulary, S positions to look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
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
    attend,
    merge_heads,
    qkv_parts,
    split_heads,
)
from llm_model_neox.gelu import GELUS, require_gelu
from llm_quant import LinearLike
from llm_sepweight import PartSpec

# Keys of published folders that change nothing in what the model computes, beyond those of every family.
_INERT = INERT_KEYS | {
    "_num_labels",
    "gradient_checkpointing",
    "line_by_line",
    "n_ctx",  # the size of the mask that older checkpoints carry along
    "n_special",
    "output_past",
    "predict_special_tokens",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. It has learned `max_positions` positions, and no text may be longer.

    Scores are divided by the root of the head size with `scale_attention`, by 1, 2, 3 … with `scale_by_layer`. They are
    fp32 here whatever `upcast_attention` says: it is kept for the programs that read what we save.
    """

    model_type: ClassVar[str] = "gpt2"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    max_positions: int
    norm_eps: float = 1e-5
    activation: str = "gelu_new"
    scale_attention: bool = True
    scale_by_layer: bool = False
    upcast_attention: bool = False
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"a width of {self.dim} doesn't part into {self.num_heads} heads evenly")
        require_gelu(self.activation)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("add_cross_attention", (False,), "there is no encoder to look at")
        dim = keys.integer("n_embd")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("n_inner", default=4 * dim),
            num_layers=keys.integer("n_layer"),
            num_heads=keys.integer("n_head"),
            max_positions=keys.integer("n_positions"),
            norm_eps=keys.number("layer_norm_epsilon", default=1e-5),
            activation=keys.text("activation_function", default="gelu_new"),
            scale_attention=keys.flag("scale_attn_weights", default=True),
            scale_by_layer=keys.flag("scale_attn_by_inverse_layer_idx", default=False),
            upcast_attention=keys.flag("reorder_and_upcast_attn", default=False),
            tie_embeddings=keys.flag("tie_word_embeddings", default=True),
        )
        keys.finish(inert=_INERT)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "n_embd": self.dim,
            "n_inner": self.hidden_dim,
            "n_layer": self.num_layers,
            "n_head": self.num_heads,
            "n_positions": self.max_positions,
            "layer_norm_epsilon": self.norm_eps,
            "activation_function": self.activation,
            "scale_attn_weights": self.scale_attention,
            "scale_attn_by_inverse_layer_idx": self.scale_by_layer,
            "reorder_and_upcast_attn": self.upcast_attention,
            "tie_word_embeddings": self.tie_embeddings,
        }


class Conv1D(LinearLike):
    """A linear layer whose weight is (in, out), as in files of GPT-2, where it was written as a convolution."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, out_dim))
        self.bias = nn.Parameter(torch.empty(out_dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)  # (B, T, in) -> (B, T, out)

    def matrix(self) -> Tensor:
        return self.weight.T


class Embedding(nn.Module):
    """The beginning: a row for each id and one for each position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.positions = nn.Embedding(config.max_positions, config.dim)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        # only padding may lie beyond the last position: `Model.context` refuses a text that does
        known = plan.positions.clamp(max=self.positions.num_embeddings - 1)  # (1 or B, T)
        return self.embed(x) + self.positions(known)  # (B, T) -> (B, T, C)


class Attention(Fused):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.dim, self.head_dim = layer, c.dim, c.head_dim
        self.qkv = Conv1D(c.dim, 3 * c.dim)  # all queries, then all keys, then all values
        self.o = Conv1D(c.dim, c.dim)
        self.scale = (c.head_dim**-0.5 if c.scale_attention else 1.0) / (layer + 1 if c.scale_by_layer else 1)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        q, k, v = (split_heads(each, self.head_dim) for each in self.qkv(x).chunk(3, dim=-1))  # (B, H, T, D)
        k, v, view = plan.remember(self.layer, k, v)  # (B, H, S, D)
        return self.o(merge_heads(attend(q, k, v, view, scale=self.scale)))  # (B, H, T, D) -> (B, T, C)

    def parts(self) -> dict[str, Parts]:
        return {"qkv": qkv_parts(self.dim, self.dim)}


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Conv1D(config.dim, config.hidden_dim)
        self.down = Conv1D(config.hidden_dim, config.dim)
        self.activation = GELUS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))  # (B, T, C)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, context: None, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a GPT-2: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: Embedding(c),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(LayerNorm(c.dim, eps=c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_heads, head_dim=c.head_dim),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> None:
        """Nothing for the blocks; ValueError for a row that outgrows the learned positions, before any is stored."""
        limit = self.config.max_positions
        for row, (start, end) in enumerate(zip(plan.starts, plan.ends, strict=True)):
            if end > limit:
                raise ValueError(
                    f"row {row} goes from {start} to {end} positions and this model has learned {limit}; "
                    "give it a shorter text, or its last part alone"
                )


# Hugging Face's name -> ours, after the prefix that files of the whole model have and OpenAI's own lack
_NAMES: dict[str, str] = {
    "wte.weight": "begin.embed.weight",
    "wpe.weight": "begin.positions.weight",
    "h.{i}.ln_1.weight": "mid.{i}.attention_norm.weight",
    "h.{i}.ln_1.bias": "mid.{i}.attention_norm.bias",
    "h.{i}.attn.c_attn.weight": "mid.{i}.attention.qkv.weight",
    "h.{i}.attn.c_attn.bias": "mid.{i}.attention.qkv.bias",
    "h.{i}.attn.c_proj.weight": "mid.{i}.attention.o.weight",
    "h.{i}.attn.c_proj.bias": "mid.{i}.attention.o.bias",
    "h.{i}.ln_2.weight": "mid.{i}.mlp_norm.weight",
    "h.{i}.ln_2.bias": "mid.{i}.mlp_norm.bias",
    "h.{i}.mlp.c_fc.weight": "mid.{i}.mlp.up.weight",
    "h.{i}.mlp.c_fc.bias": "mid.{i}.mlp.up.bias",
    "h.{i}.mlp.c_proj.weight": "mid.{i}.mlp.down.weight",
    "h.{i}.mlp.c_proj.bias": "mid.{i}.mlp.down.bias",
    "ln_f.weight": "end.norm.weight",
    "ln_f.bias": "end.norm.bias",
    # the causal mask, which older checkpoints carry along
    "h.{i}.attn.bias": "",
    "h.{i}.attn.masked_bias": "",
}
NAMES: dict[str, str] = {
    **{f"transformer.{theirs}": ours for theirs, ours in _NAMES.items()},
    **_NAMES,
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, heads: int) -> Config:
    return Config(
        vocab_size=50_257, dim=dim, hidden_dim=4 * dim, num_layers=layers, num_heads=heads, max_positions=1_024
    )


# The sizes people name, from the config.json of each release: layers, C, H
PRESETS: dict[str, Config] = {
    "gpt2": _preset(12, 768, 12),
    "gpt2-medium": _preset(24, 1024, 16),
    "gpt2-large": _preset(36, 1280, 20),
    "gpt2-xl": _preset(48, 1600, 25),
    "distilgpt2": _preset(6, 768, 12),
}
