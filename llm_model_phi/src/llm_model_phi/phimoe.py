"""Phi-3.5-MoE in one file (arXiv 2404.14219): layers with biases, and two experts of a token chosen by SparseMixer.

Shapes: B batch, T time, C width, H heads, K kv heads, D head size, V vocabulary, S positions to look at, E experts,
N tokens (B T).
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
    LayerNorm,
    Plan,
    Rope,
    RopeTable,
    RouterLinear,
    TokenEmbedding,
    attend,
    merge_heads,
    parse_rope,
    require_heads,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_model_phi.rotary import PHI_3_5_MOE
from llm_sepweight import PartSpec

# Keys that matter in training alone, beyond those of every family
_INERT = INERT_KEYS | {
    "expert_dropout",
    "hidden_dropout",
    "input_jitter_noise",
    "output_router_logits",
    "router_aux_loss_coef",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads: each token goes through two of `num_experts`.

    A score that is more than 2 `router_jitter` below the best one, relative to the larger magnitude of the two, doesn't
    count in the best one's weight.
    """

    model_type: ClassVar[str] = "phimoe"
    experts_per_token: ClassVar[int] = 2

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    num_experts: int
    router_jitter: float = 0.01
    norm_eps: float = 1e-5
    rope: Rope = field(default_factory=Rope)
    sliding_window: int | None = None
    attention_bias: bool = False
    head_bias: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads)
        if self.num_experts < 2:
            raise ValueError(f"a token goes through two experts, so there must be two or more, got {self.num_experts}")
        if self.rope.kind not in ("default", "longrope"):
            raise ValueError(f"a phimoe has the rotary kinds default and longrope, not {self.rope.kind!r}")
        if self.rope.kind == "longrope" and not (self.rope.short_mscale and self.rope.long_mscale):
            raise ValueError("the LongRoPE of a phimoe needs short_mscale and long_mscale")
        self.rope.require_fits(self.head_dim)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a phimoe has silu")
        keys.require("num_experts_per_tok", (2,), "SparseMixer chooses two experts")
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        max_positions = keys.integer("max_position_embeddings")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads"),
            head_dim=keys.integer("head_dim", default=dim // num_heads),
            max_positions=max_positions,
            num_experts=keys.integer("num_local_experts"),
            router_jitter=keys.amount("router_jitter_noise", default=0.01),
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions, theta=1_000_000.0),
            sliding_window=keys.optional_integer("sliding_window"),
            attention_bias=keys.flag("attention_bias", default=False),
            head_bias=keys.flag("lm_head_bias", default=False),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        # Phi-mini-MoE and Phi-tiny-MoE say these twice
        keys.require("moe_intermediate_size", (config.hidden_dim,), "it must agree with intermediate_size")
        keys.require("num_experts", (config.num_experts,), "it must agree with num_local_experts")
        keys.finish(inert=_INERT)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["PhimoeForCausalLM"],
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
            "num_experts_per_tok": 2,
            "router_jitter_noise": self.router_jitter,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "sliding_window": self.sliding_window,
            "attention_bias": self.attention_bias,
            "lm_head_bias": self.head_bias,
            "tie_word_embeddings": self.tie_embeddings,
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
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))  # (B, H, T, D)
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class MLP(nn.Module):
    """The two experts with the best scores (arXiv 2409.12136; at inference, where nothing is drawn).

    Each has its own weight: its probability among the experts still free whose score is close to its own. The weights
    don't add up to 1.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.jitter = config.router_jitter
        self.router = RouterLinear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        scores = self.router(tokens).float()  # (N, E)
        first, one = self._best(scores, scores)  # (N, 1) each
        second, two = self._best(scores, scores.scatter(-1, one, float("-inf")))
        weights, chosen = torch.cat((first, second), dim=-1), torch.cat((one, two), dim=-1)  # (N, 2)
        return self.experts(tokens, weights, chosen).view_as(x)

    def _best(self, scores: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """The weight and the number (N, 1) of the best expert of `free` (N, E), the scores of those not yet chosen."""
        best, chosen = free.max(-1, keepdim=True)
        behind = (best - scores) / torch.maximum(scores.abs(), best)
        shares = free.masked_fill(behind > 2 * self.jitter, float("-inf")).softmax(-1)
        return shares.gather(-1, chosen), chosen


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = LayerNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a phimoe: see `Decoder` for what goes in and comes out.

    With LongRoPE, how long a text is taken to be decides between the short and the long factors: see `KVCache.aims`.
    """

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        kept = CacheShape(
            num_kv_heads=c.num_kv_heads,
            head_dim=c.head_dim,
            windows=(c.sliding_window,) * c.num_layers,
            long_from=c.rope.long_from,
        )
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(LayerNorm(c.dim, c.norm_eps), c.dim, c.vocab_size, bias=c.head_bias),
            cache=kept,
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
    "model.layers.{i}.self_attn.o_proj.bias": "mid.{i}.attention.o.bias",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.post_attention_layernorm.bias": "mid.{i}.mlp_norm.bias",
    "model.layers.{i}.block_sparse_moe.gate.weight": "mid.{i}.mlp.router.weight",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight": "mid.{i}.mlp.experts.{e}.gate.weight",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight": "mid.{i}.mlp.experts.{e}.up.weight",
    "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight": "mid.{i}.mlp.experts.{e}.down.weight",
    # as transformers 5 keeps them in memory: all experts of a layer stacked
    "model.layers.{i}.mlp.router.weight": "mid.{i}.mlp.router.weight",
    "model.layers.{i}.mlp.experts.gate_up_proj": "mid.{i}.mlp.experts.gate_up",
    "model.layers.{i}.mlp.experts.down_proj": "mid.{i}.mlp.experts.down",
    "model.norm.weight": "end.norm.weight",
    "model.norm.bias": "end.norm.bias",
    "lm_head.weight": "end.head.weight",
    "lm_head.bias": "end.head.bias",
}


def _preset(hidden: int, heads: int, kv_heads: int, **more: Any) -> Config:
    sizes: dict[str, Any] = {"vocab_size": 32_064, "dim": 4096, "num_layers": 32, "head_dim": 128, "num_experts": 16}
    sizes |= {"hidden_dim": hidden, "num_heads": heads, "num_kv_heads": kv_heads}
    return Config(attention_bias=True, head_bias=True, **sizes, **more)


# The sizes people name, from the config.json of each release: hidden width, H, K
PRESETS: dict[str, Config] = {
    "Phi-3.5-MoE": _preset(6400, 32, 8, max_positions=131_072, sliding_window=131_072, rope=PHI_3_5_MOE),
    "Phi-tiny-MoE": _preset(448, 16, 4, max_positions=4_096, sliding_window=2_047),
}
