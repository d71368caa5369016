"""Mixtral in one file (arXiv 2401.04088): a Mistral whose feed-forward layers are sparse mixtures of experts.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, S positions to look at, E experts,
A experts of a token, N tokens (B T).
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
    Experts,
    Head,
    Plan,
    RMSNorm,
    Rope,
    RopeTable,
    RouterLinear,
    TokenEmbedding,
    attend,
    merge_heads,
    parse_rope,
    require_experts,
    require_heads,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_sepweight import PartSpec


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads: each token goes through the `experts_per_token` likeliest of `num_experts`."""

    model_type: ClassVar[str] = "mixtral"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    num_experts: int
    experts_per_token: int
    norm_eps: float = 1e-5
    rope: Rope = field(default_factory=Rope)
    sliding_window: int | None = None
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        require_experts(self.experts_per_token, self.num_experts)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a Mixtral has silu")
        keys.require("router_jitter_noise", (0,), "routing must not be random")
        for bias in ("attention_bias", "mlp_bias"):
            keys.require(bias, (False,), "its projections have no biases")
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
            num_experts=keys.integer("num_local_experts"),
            experts_per_token=keys.integer("num_experts_per_tok"),
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions, theta=1_000_000.0),
            sliding_window=keys.optional_integer("sliding_window"),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=INERT_KEYS | {"output_router_logits", "router_aux_loss_coef"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["MixtralForCausalLM"],
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
            "num_local_experts": self.num_experts,
            "num_experts_per_tok": self.experts_per_token,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "sliding_window": self.sliding_window,
            "tie_word_embeddings": self.tie_embeddings,
        }


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=False)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=False)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class MLP(nn.Module):
    """The likeliest experts of each token, weighted by their share of the probability (§2.1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.per_token = config.experts_per_token
        self.router = RouterLinear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        shares = self.router(tokens).softmax(-1, dtype=torch.float32)  # (N, E)
        weights, chosen = shares.topk(self.per_token)  # (N, A)
        return self.experts(tokens, weights / weights.sum(-1, keepdim=True), chosen).view_as(x)


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
    """The layers of `part` of a Mixtral: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        windows = (c.sliding_window,) * c.num_layers
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
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.block_sparse_moe.gate.weight": "mid.{i}.mlp.router.weight",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight": "mid.{i}.mlp.experts.{e}.gate.weight",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight": "mid.{i}.mlp.experts.{e}.up.weight",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight": "mid.{i}.mlp.experts.{e}.down.weight",
    # as transformers 5 keeps them in memory: all experts of a layer stacked
    "model.layers.{i}.mlp.gate.weight": "mid.{i}.mlp.router.weight",
    "model.layers.{i}.mlp.experts.gate_up_proj": "mid.{i}.mlp.experts.gate_up",
    "model.layers.{i}.mlp.experts.down_proj": "mid.{i}.mlp.experts.down",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, heads: int, **more: Any) -> Config:
    values: dict[str, Any] = {"num_kv_heads": 8, "head_dim": 128, "num_experts": 8, "experts_per_token": 2} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden, "num_heads": heads}
    return Config(rope=Rope(theta=1_000_000.0), **values)


# The sizes people name, from the config.json of each release: layers, C, hidden width, H
PRESETS: dict[str, Config] = {
    "Mixtral-8x7B-v0.1": _preset(32, 4096, 14336, 32, vocab_size=32_000, max_positions=32_768),
    "Mixtral-8x22B-v0.1": _preset(56, 6144, 16384, 48, vocab_size=32_000, max_positions=65_536),
    "Mixtral-8x22B-Instruct-v0.1": _preset(56, 6144, 16384, 48, vocab_size=32_768, max_positions=65_536),
}
