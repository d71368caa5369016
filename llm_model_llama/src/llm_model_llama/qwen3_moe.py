"""Qwen3's mixtures of experts in one file (arXiv 2505.09388): its attention, and many small experts in each layer.

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
    merge_heads,
    parse_rope,
    require_experts,
    require_heads,
    rope_to_hf,
    rotate,
)
from llm_model_llama.qwen_config import context_length
from llm_sepweight import PartSpec

_REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("hidden_act", ("silu", "swish"), "a Qwen3 has silu"),
    ("use_qk_norm", (True,), "queries and keys have norms"),  # Qwen3-Coder says this and the next two
    ("qkv_bias", (False,), "biases are those that attention_bias asks for"),
    ("shared_expert_intermediate_size", (0,), "no expert is shared by all tokens"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads: each token goes through the `experts_per_token` likeliest of `num_experts`.

    So it is in every `sparse_step`-th layer but the `dense_layers`; the rest are dense and `hidden_dim` wide.
    """

    model_type: ClassVar[str] = "qwen3_moe"

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
    normalize_shares: bool = False
    sparse_step: int = 1
    dense_layers: frozenset[int] = frozenset()
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    sliding_window: int | None = None
    attention_bias: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        require_heads(self.num_heads, self.num_kv_heads, self.head_dim)
        self.rope.require_fits(self.head_dim)
        require_experts(self.experts_per_token, self.num_experts)

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer is a mixture of experts."""
        return layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        for key, allowed, why in _REQUIRED:
            keys.require(key, allowed, why)
        dim, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
        length = keys.integer("max_position_embeddings")
        rope = parse_rope(keys, max_positions=length)
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=dim,
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=keys.integer("num_key_value_heads", default=num_heads),
            head_dim=keys.integer("head_dim", default=dim // num_heads),
            max_positions=context_length(keys, length, rope),
            num_experts=keys.optional_integer("num_local_experts") or keys.integer("num_experts"),
            experts_per_token=keys.integer("num_experts_per_tok"),
            expert_hidden_dim=keys.integer("moe_intermediate_size"),
            normalize_shares=keys.flag("norm_topk_prob", default=False),
            sparse_step=keys.integer("decoder_sparse_step", default=1),
            dense_layers=frozenset(keys.counts("mlp_only_layers", default=())),
            norm_eps=keys.number("rms_norm_eps"),
            rope=rope,
            sliding_window=_window(keys),
            attention_bias=keys.flag("attention_bias", default=False),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        )
        # files give the window's size even where no layer has it
        keys.finish(inert=INERT_KEYS | {"sliding_window", "output_router_logits", "router_aux_loss_coef"})
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        return {
            "architectures": ["Qwen3MoeForCausalLM"],
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
            "moe_intermediate_size": self.expert_hidden_dim,
            "norm_topk_prob": self.normalize_shares,
            "decoder_sparse_step": self.sparse_step,
            "mlp_only_layers": sorted(self.dense_layers),
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "use_sliding_window": self.sliding_window is not None,
            "sliding_window": self.sliding_window,
            "attention_bias": self.attention_bias,
            "tie_word_embeddings": self.tie_embeddings,
        }


def _window(keys: ConfigKeys) -> int | None:
    """The window that every layer has, if any."""
    used, full = keys.flag("use_sliding_window", default=False), keys.count("max_window_layers", default=0)
    if not used:
        return None
    if full:  # earlier readers left so many layers without a window, later ones take no notice of the key
        raise ValueError(f"max_window_layers is {full}, but windows are supported on all layers alone: set it to 0")
    return keys.nullable_integer("sliding_window", default=4096)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c, bias = config, config.attention_bias
        self.layer, self.head_dim = layer, c.head_dim
        self.q = nn.Linear(c.dim, c.num_heads * c.head_dim, bias=bias)
        self.k = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.v = nn.Linear(c.dim, c.num_kv_heads * c.head_dim, bias=bias)
        self.o = nn.Linear(c.num_heads * c.head_dim, c.dim, bias=bias)
        self.q_norm = RMSNorm(c.head_dim, c.norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.norm_eps)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q, self.k, self.v))
        # each head is normed while its dimensions are still neighbours of the next head's: (B, T, H, D)
        q, k, v = (heads.transpose(1, 2) for heads in (self.q_norm(q), self.k_norm(k), v))  # (B, H, T, D)
        k, v, view = plan.remember(self.layer, rotate(k, rope), v)  # (B, K, S, D)
        return self.o(merge_heads(attend(rotate(q, rope), k, v, view)))  # (B, H, T, D) -> (B, T, C)


class MLP(nn.Module):
    """The likeliest experts of each token, weighted by their probability or by their share of what all of them have."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.per_token, self.normalize = config.experts_per_token, config.normalize_shares
        self.router = RouterLinear(config.dim, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.dim, config.expert_hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        weights, chosen = self.router(tokens).softmax(-1, dtype=torch.float32).topk(self.per_token)  # (N, A)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdim=True)
        return self.experts(tokens, weights, chosen).view_as(x)


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
    "model.layers.{i}.self_attn.q_proj.bias": "mid.{i}.attention.q.bias",
    "model.layers.{i}.self_attn.k_proj.weight": "mid.{i}.attention.k.weight",
    "model.layers.{i}.self_attn.k_proj.bias": "mid.{i}.attention.k.bias",
    "model.layers.{i}.self_attn.v_proj.weight": "mid.{i}.attention.v.weight",
    "model.layers.{i}.self_attn.v_proj.bias": "mid.{i}.attention.v.bias",
    "model.layers.{i}.self_attn.o_proj.weight": "mid.{i}.attention.o.weight",
    "model.layers.{i}.self_attn.o_proj.bias": "mid.{i}.attention.o.bias",
    "model.layers.{i}.self_attn.q_norm.weight": "mid.{i}.attention.q_norm.weight",
    "model.layers.{i}.self_attn.k_norm.weight": "mid.{i}.attention.k_norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "mid.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate.weight": "mid.{i}.mlp.router.weight",
    "model.layers.{i}.mlp.experts.{e}.gate_proj.weight": "mid.{i}.mlp.experts.{e}.gate.weight",
    "model.layers.{i}.mlp.experts.{e}.up_proj.weight": "mid.{i}.mlp.experts.{e}.up.weight",
    "model.layers.{i}.mlp.experts.{e}.down_proj.weight": "mid.{i}.mlp.experts.{e}.down.weight",
    # as transformers 5 keeps them in memory: all experts of a layer stacked
    "model.layers.{i}.mlp.experts.gate_up_proj": "mid.{i}.mlp.experts.gate_up",
    "model.layers.{i}.mlp.experts.down_proj": "mid.{i}.mlp.experts.down",
    # of layers without experts
    "model.layers.{i}.mlp.gate_proj.weight": "mid.{i}.mlp.gate.weight",
    "model.layers.{i}.mlp.up_proj.weight": "mid.{i}.mlp.up.weight",
    "model.layers.{i}.mlp.down_proj.weight": "mid.{i}.mlp.down.weight",
    "model.norm.weight": "end.norm.weight",
    "lm_head.weight": "end.head.weight",
}

_A3B, _A22B = (48, 2048, 6144, 768, 32), (94, 4096, 12288, 1536, 64)
_CODER_A3B, _CODER_A35B = (48, 2048, 5472, 768, 32), (62, 6144, 8192, 2560, 96)
_256K = 262_144


def _preset(sizes: tuple[int, ...], max_positions: int = 40_960, *, theta: float = 1e6, **more: Any) -> Config:
    names = ("num_layers", "dim", "hidden_dim", "expert_hidden_dim", "num_heads")
    values: dict[str, Any] = {"num_kv_heads": 4, "num_experts": 128, "rope": Rope(theta=theta)} | more
    values |= {"vocab_size": 151_936, "head_dim": 128, "experts_per_token": 8, "normalize_shares": True}
    return Config(max_positions=max_positions, **dict(zip(names, sizes, strict=True)), **values)


# The sizes people name, from the config.json of each release
PRESETS: dict[str, Config] = {
    "Qwen3-30B-A3B": _preset(_A3B),
    "Qwen3-30B-A3B-Base": _preset(_A3B, 32_768),
    "Qwen3-30B-A3B-Instruct-2507": _preset(_A3B, _256K, theta=1e7),
    "Qwen3-30B-A3B-Thinking-2507": _preset(_A3B, _256K, theta=1e7),
    "Qwen3-235B-A22B": _preset(_A22B),
    "Qwen3-235B-A22B-Instruct-2507": _preset(_A22B, _256K, theta=5e6),
    "Qwen3-235B-A22B-Thinking-2507": _preset(_A22B, _256K, theta=5e6),
    "Qwen3-Coder-30B-A3B-Instruct": _preset(_CODER_A3B, _256K, theta=1e7),
    "Qwen3-Coder-480B-A35B-Instruct": _preset(_CODER_A35B, _256K, theta=1e7, num_kv_heads=8, num_experts=160),
}
