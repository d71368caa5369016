"""Qwen2's mixtures of experts in one file (arXiv 2407.10671 §2.2.2): small experts, and one that all tokens share.

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
    GatedMLP,
    Head,
    Plan,
    RMSNorm,
    Rope,
    RopeTable,
    RouterLinear,
    TokenEmbedding,
    attend,
    extended_length,
    merge_heads,
    parse_rope,
    require_experts,
    require_heads,
    rope_to_hf,
    rotate,
    split_heads,
)
from llm_sepweight import PartSpec

# files give the size of the window even where no layer has it
_INERT = INERT_KEYS | {"sliding_window", "max_window_layers", "output_router_logits", "router_aux_loss_coef"}
_FULL, _WINDOW = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads: each token goes through the `experts_per_token` likeliest of `num_experts`.

    So it is in every `sparse_step`-th layer but the `dense_layers`; the rest are dense and `hidden_dim` wide.
    A position sees all earlier ones; in `windowed_layers` the last `sliding_window` alone, itself included.
    """

    model_type: ClassVar[str] = "qwen2_moe"

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
    expert_hidden_dim: int
    shared_hidden_dim: int
    normalize_shares: bool = False
    sparse_step: int = 1
    dense_layers: frozenset[int] = frozenset()
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    sliding_window: int | None = None
    windowed_layers: frozenset[int] = frozenset()
    qkv_bias: bool = True
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        require_experts(self.experts_per_token, self.num_experts)
        if (self.sliding_window is None) != (not self.windowed_layers):
            raise ValueError(f"{len(self.windowed_layers)} layers have a window, which is {self.sliding_window}")

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer is a mixture of experts."""
        return layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a Qwen2 has silu")
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        num_layers, length = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
        rope, windowed = parse_rope(keys, max_positions=length), _windowed_layers(keys, num_layers)
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
            head_dim=keys.integer("head_dim", default=dim // num_heads),
            max_positions=extended_length(length, rope),
            num_experts=keys.integer("num_experts"),
            experts_per_token=keys.integer("num_experts_per_tok"),
            expert_hidden_dim=keys.integer("moe_intermediate_size"),
            shared_hidden_dim=keys.integer("shared_expert_intermediate_size"),
            normalize_shares=keys.flag("norm_topk_prob", default=False),
            sparse_step=keys.integer("decoder_sparse_step", default=1),
            dense_layers=frozenset(keys.counts("mlp_only_layers", default=())),
            norm_eps=keys.number("rms_norm_eps"),
            rope=rope,
            sliding_window=keys.integer("sliding_window") if windowed else None,
            windowed_layers=windowed,
            qkv_bias=keys.flag("qkv_bias", default=True),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        keys.finish(inert=_INERT)
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Qwen2MoeForCausalLM"],
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
            "num_experts": self.num_experts,
            "num_experts_per_tok": self.experts_per_token,
            "moe_intermediate_size": self.expert_hidden_dim,
            "shared_expert_intermediate_size": self.shared_hidden_dim,
            "norm_topk_prob": self.normalize_shares,
            "decoder_sparse_step": self.sparse_step,
            "mlp_only_layers": sorted(self.dense_layers),
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "use_sliding_window": bool(self.windowed_layers),
            "sliding_window": self.sliding_window,
            "layer_types": [_WINDOW if i in self.windowed_layers else _FULL for i in range(self.num_layers)],
            "qkv_bias": self.qkv_bias,
            "tie_word_embeddings": self.tie_embeddings,
        }


def _windowed_layers(keys: ConfigKeys, num_layers: int) -> frozenset[int]:
    """The layers that have the window, which `layer_types` names."""
    used, kinds = keys.flag("use_sliding_window", default=False), keys.texts("layer_types", default=())
    if kinds and (len(kinds) != num_layers or not {_FULL, "attention", _WINDOW}.issuperset(kinds)):
        got = str(kinds)[:200]
        raise ValueError(f"layer_types needs {_FULL} or {_WINDOW} for each of {num_layers} layers, got {got}")
    windowed = frozenset(layer for layer, kind in enumerate(kinds) if kind == _WINDOW)
    if used and not kinds:  # which layers are meant without it has changed between readers; no release has windows
        raise ValueError("use_sliding_window is true, so layer_types must say which layers have the window")
    if windowed and not used:
        raise ValueError(f"layer_types has {_WINDOW}, but use_sliding_window is not true; keep what the model had")
    return windowed


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.qkv_bias
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=False)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (split_heads(project(x), self.head_dim) for project in (self.q, self.k, self.v))
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class MLP(nn.Module):
    """The likeliest experts of each token, weighted by their probability or by their share of what all of them have,
    and one more for all tokens, weighted by a gate of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.per_token, self.normalize = config.experts_per_token, config.normalize_shares
        self.router = RouterLinear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.expert_hidden_dim)
        self.shared = GatedMLP(config.dim, config.shared_hidden_dim)
        self.shared_gate = RouterLinear(config.dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        weights, chosen = self.router(tokens).softmax(-1, dtype=torch.float32).topk(self.per_token)  # (N, A)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        shared = self.shared_gate(tokens).sigmoid() * self.shared(tokens)  # (N, C)
        return (self.experts(tokens, weights, chosen) + shared).view_as(x)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config, layer)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = MLP(config) if config.is_sparse(layer) else GatedMLP(config.dim, config.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a mixture of experts: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        windows = tuple(c.sliding_window if i in c.windowed_layers else None for i in range(c.num_layers))
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
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate.weight": "mid.{i}.mlp.router.weight",
    "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": "mid.{i}.mlp.experts.{e}.gate.weight",
    "model.layers.{i}.mlp.experts.{e}.up_proj.weight": "mid.{i}.mlp.experts.{e}.up.weight",
    "model.layers.{i}.mlp.experts.{e}.down_proj.weight": "mid.{i}.mlp.experts.{e}.down.weight",
    # as transformers 5 keeps them in memory: all experts of a layer stacked
    "model.layers.{i}.mlp.experts.gate_up_proj": "mid.{i}.mlp.experts.gate_up",
    "model.layers.{i}.mlp.experts.down_proj": "mid.{i}.mlp.experts.down",
    "model.layers.{i}.mlp.shared_expert.gate_proj.weight": "mid.{i}.mlp.shared.gate.weight",
    "model.layers.{i}.mlp.shared_expert.up_proj.weight": "mid.{i}.mlp.shared.up.weight",
    "model.layers.{i}.mlp.shared_expert.down_proj.weight": "mid.{i}.mlp.shared.down.weight",
    "model.layers.{i}.mlp.shared_expert_gate.weight": "mid.{i}.mlp.shared_gate.weight",
    # of layers without experts
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}


def _preset(layers: int, dim: int, hidden: int, expert: int, shared: int, **more: Any) -> Config:
    values: dict[str, Any] = {"vocab_size": 151_936, "head_dim": 128, "rope": Rope(theta=1_000_000.0)} | more
    values |= {"num_layers": layers, "dim": dim, "hidden_dim": hidden}
    return Config(expert_hidden_dim=expert, shared_hidden_dim=shared, **values)


_A2_7B: dict[str, Any] = {"num_heads": 16, "num_kv_heads": 16, "num_experts": 60, "experts_per_token": 4}
_A14B: dict[str, Any] = {"num_heads": 28, "num_kv_heads": 4, "num_experts": 64, "experts_per_token": 8}

# The sizes people name, from the config.json of each release: layers, C, hidden width of a layer, an expert, the shared
PRESETS: dict[str, Config] = {
    "Qwen1.5-MoE-A2.7B": _preset(24, 2048, 5632, 1408, 5632, max_positions=8_192, **_A2_7B),
    "Qwen2-57B-A14B": _preset(28, 3584, 18944, 2560, 20480, max_positions=131_072, **_A14B),
}
