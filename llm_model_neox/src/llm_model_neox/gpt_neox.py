"""GPT-NeoX in one file (arXiv 2204.06745): config, attention, MLP, block, model, names in files, sizes people name.

Shapes: B batch, T time, C width, H heads, D head size, V vocabulary, S positions to look at.
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
    LayerNorm,
    Parts,
    Plan,
    Rope,
    RopeTable,
    TokenEmbedding,
    attend,
    merge_heads,
    parse_rope,
    qkv_parts,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_model_neox.gelu import GELUS, require_gelu
from llm_sepweight import PartSpec

# Keys of published folders that change nothing in what the model computes, beyond those of every family.
_INERT = INERT_KEYS | {
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "custom_pipelines",  # of Dolly: how its prompts are written
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "num_steps",  # of Polyglot: when the checkpoint was taken
}
_QUARTER = 0.25  # of each head turns, where a file doesn't say


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads. With `parallel_residual` attention and MLP of a layer read the same input."""

    model_type: ClassVar[str] = "gpt_neox"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    max_positions: int
    norm_eps: float = 1e-5
    rope: Rope = field(default_factory=lambda: Rope(partial=_QUARTER))
    activation: str = "gelu"
    parallel_residual: bool = True
    attention_bias: bool = True
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(f"a width of {self.dim} doesn't part into {self.num_heads} heads evenly")
        self.rope.require_fits(self.head_dim)
        require_gelu(self.activation)

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        max_positions = keys.integer("max_position_embeddings")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=keys.integer("hidden_size"),
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=keys.integer("num_attention_heads"),
            max_positions=max_positions,
            norm_eps=keys.number("layer_norm_eps", default=1e-5),
            rope=_read_rope(keys, max_positions),
            activation=keys.text("hidden_act", default="gelu"),
            parallel_residual=keys.flag("use_parallel_residual", default=True),
            attention_bias=keys.flag("attention_bias", default=True),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=_INERT)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["GPTNeoXForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "hidden_act": self.activation,
            "max_position_embeddings": self.max_positions,
            "layer_norm_eps": self.norm_eps,
            # also where the whole head turns, for a file without the share means a quarter
            "rope_parameters": rope_to_hf(self.rope) | {"partial_rotary_factor": self.rope.partial},
            "use_parallel_residual": self.parallel_residual,
            "attention_bias": self.attention_bias,
            "tie_word_embeddings": self.tie_embeddings,
        }


def _read_rope(keys: ConfigKeys, max_positions: int) -> Rope:
    """The rotary settings, of which older files have two under names of their own: rotary_emb_base and rotary_pct."""
    theta, share = keys.optional_number("rotary_emb_base"), keys.optional_number("rotary_pct")
    rope = parse_rope(keys, max_positions=max_positions, theta=theta or 10_000.0, partial=share or _QUARTER)
    for key, older, found in (("rotary_emb_base", theta, rope.theta), ("rotary_pct", share, rope.partial)):
        if older not in (None, found):
            raise ValueError(f"{key} is {older}, but the rotary settings beside it say {found}; keep the right one")
    return rope


class Attention(Fused):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim = layer, c.head_dim
        self.qkv = nn.Linear(c.dim, 3 * c.dim, bias=bias)  # the query, key and value of one head after another
        self.o = nn.Linear(c.dim, c.dim, bias=bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3 * self.head_dim).chunk(3, dim=-1)  # (B, H, T, D) each
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, H, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)

    def parts(self) -> dict[str, Parts]:
        return {"qkv": qkv_parts(self.head_dim, self.head_dim, groups=self.o.in_features // self.head_dim)}


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
        self.attention_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.parallel = config.parallel_residual

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        attended = self.attention(self.attention_norm(x), rope, plan)
        if self.parallel:
            return x + (attended + self.mlp(self.mlp_norm(x)))
        x = x + attended
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a GPT-NeoX: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(LayerNorm(c.dim, eps=c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(num_kv_heads=c.num_heads, head_dim=c.head_dim, long_from=c.rope.long_from),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.head_dim, dtype=dtype)


# Hugging Face's name -> ours
NAMES: dict[str, str] = {
    "gpt_neox.embed_in.weight": "begin.embed.weight",
    "gpt_neox.layers.{i}.input_layernorm.weight": "mid.{i}.attention_norm.weight",
    "gpt_neox.layers.{i}.input_layernorm.bias": "mid.{i}.attention_norm.bias",
    "gpt_neox.layers.{i}.attention.query_key_value.weight": "mid.{i}.attention.qkv.weight",
    "gpt_neox.layers.{i}.attention.query_key_value.bias": "mid.{i}.attention.qkv.bias",
    "gpt_neox.layers.{i}.attention.dense.weight": "mid.{i}.attention.o.weight",
    "gpt_neox.layers.{i}.attention.dense.bias": "mid.{i}.attention.o.bias",
    "gpt_neox.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "gpt_neox.layers.{i}.post_attention_layernorm.bias": "mid.{i}.mlp_norm.bias",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.weight": "mid.{i}.mlp.up.weight",
    "gpt_neox.layers.{i}.mlp.dense_h_to_4h.bias": "mid.{i}.mlp.up.bias",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.weight": "mid.{i}.mlp.down.weight",
    "gpt_neox.layers.{i}.mlp.dense_4h_to_h.bias": "mid.{i}.mlp.down.bias",
    "gpt_neox.final_layer_norm.weight": "end.norm.weight",
    "gpt_neox.final_layer_norm.bias": "end.norm.bias",
    "embed_out.weight": "end.head.weight",
    "lm_head.weight": "end.head.weight",  # as transformers 5 has it in memory
    # the causal mask, which older checkpoints carry along
    "gpt_neox.layers.{i}.attention.bias": "",
    "gpt_neox.layers.{i}.attention.masked_bias": "",
}


def _preset(layers: int, dim: int, heads: int, vocab: int, positions: int = 2_048, **more: Any) -> Config:
    values: dict[str, Any] = {"dim": dim, "hidden_dim": 4 * dim, "num_layers": layers, "num_heads": heads} | more
    return Config(vocab_size=vocab, max_positions=positions, **values)


_REDPAJAMA: dict[str, Any] = {"rope": Rope(), "parallel_residual": False}

_PYTHIA: dict[str, Config] = {
    "pythia-14m": _preset(6, 128, 4, 50_304, 512),
    "pythia-31m": _preset(6, 256, 8, 50_304, 1_024),
    "pythia-70m": _preset(6, 512, 8, 50_304),
    "pythia-160m": _preset(12, 768, 12, 50_304),
    "pythia-410m": _preset(24, 1024, 16, 50_304),
    "pythia-1b": _preset(16, 2048, 8, 50_304),
    "pythia-1.4b": _preset(24, 2048, 16, 50_304),
    "pythia-2.8b": _preset(32, 2560, 32, 50_304),
    "pythia-6.9b": _preset(32, 4096, 32, 50_432),
    "pythia-12b": _preset(36, 5120, 40, 50_688),
}

# The sizes people name, from the config.json of each release: layers, C, H, V, trained positions
PRESETS: dict[str, Config] = {
    **_PYTHIA,
    **{f"{name}-deduped": config for name, config in _PYTHIA.items()},
    "gpt-neox-20b": _preset(44, 6144, 64, 50_432, activation="gelu_fast"),
    "dolly-v2-3b": _preset(32, 2560, 32, 50_280),
    "dolly-v2-7b": _preset(32, 4096, 32, 50_280),
    "dolly-v2-12b": _preset(36, 5120, 40, 50_280),
    "RedPajama-INCITE-Base-3B-v1": _preset(32, 2560, 32, 50_432, **_REDPAJAMA),
    "RedPajama-INCITE-7B-Base": _preset(32, 4096, 32, 50_432, **_REDPAJAMA),
    "stablelm-base-alpha-3b": _preset(16, 4096, 32, 50_688, 4_096),
    "stablelm-base-alpha-7b": _preset(16, 6144, 48, 50_432, 4_096),
    "stablelm-tuned-alpha-3b": _preset(16, 4096, 32, 50_688, 4_096),
    "stablelm-tuned-alpha-7b": _preset(16, 6144, 48, 50_432, 4_096),
    "stablecode-completion-alpha-3b-4k": _preset(32, 2560, 32, 49_152, 4_096),
}
