"""DeepSeek-V2 in one file (arXiv 2405.04434): latent attention, and a mixture of many small experts.

Shapes: B batch, T time, C width, V vocabulary, E experts, G groups of experts, A experts of a token, N tokens (B T).
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
    Experts,
    GatedMLP,
    Head,
    Plan,
    RMSNorm,
    Rope,
    RopeTable,
    TokenEmbedding,
    parse_rope,
    rope_to_hf,
)
from llm_model_llama.deepseek_names import DEEPSEEK_NAMES
from llm_model_llama.mla import Latent, LatentAttention, latent_to_hf, parse_latent, turn_pairs
from llm_sepweight import PartSpec

_TRAINING = {"aux_loss_alpha", "ep_size", "output_router_logits", "pretraining_tp", "seq_aux"}
_INERT = INERT_KEYS | _TRAINING
_GROUPED = "group_limited_greedy"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads.

    From layer `dense_layers` on, those whose number `sparse_step` divides are mixtures of experts; none is if
    `num_experts` is 0. A token's experts come from the best `groups_per_token` of `num_groups` groups.
    """

    model_type: ClassVar[str] = "deepseek_v2"

    vocab_size: int
    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    latent: Latent
    max_positions: int
    num_experts: int = 0
    experts_per_token: int = 0
    expert_dim: int = 0
    num_shared_experts: int = 0
    num_groups: int = 1
    groups_per_token: int = 1
    routed_scale: float = 1.0
    dense_layers: int = 0
    sparse_step: int = 1
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    tie_embeddings: bool = False
    attention_bias: bool = False

    def __post_init__(self) -> None:
        size, rest = divmod(self.num_experts, self.num_groups)
        if rest or self.groups_per_token > self.num_groups:
            chosen = f"{self.groups_per_token} of {self.num_groups} groups"
            raise ValueError(f"{self.num_experts} experts can't be taken from {chosen}: groups must be of one size")
        if self.experts_per_token > self.groups_per_token * size:
            limit = f"{self.groups_per_token} groups of {size}"
            raise ValueError(f"a token can't go through {self.experts_per_token} experts in {limit}")

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer is a mixture of experts."""
        return self.num_experts > 0 and layer >= self.dense_layers and layer % self.sparse_step == 0

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> Self:
        """Read a config.json. ValueError names a key that is missing, malformed or not supported."""
        keys = ConfigKeys(raw)
        keys.require_unquantized()
        keys.require("hidden_act", ("silu", "swish"), "a DeepSeek-V2 has silu")
        keys.require("mlp_bias", (False,), "its MLPs have no biases")
        keys.require("scoring_func", ("softmax",), "a DeepSeek-V2 scores experts by a softmax")
        keys.require("norm_topk_prob", (False,), "readers disagree on whether such weights are scaled as well")
        num_heads, max_positions = keys.integer("num_attention_heads"), keys.integer("max_position_embeddings")
        num_experts = _number(keys, "n_routed_experts")
        config = cls(
            vocab_size=keys.integer("vocab_size"),
            dim=keys.integer("hidden_size"),
            hidden_dim=keys.integer("intermediate_size"),
            num_layers=keys.integer("num_hidden_layers"),
            num_heads=num_heads,
            latent=parse_latent(keys, num_heads=num_heads),
            max_positions=max_positions,
            num_experts=num_experts,
            **(_parse_routing(keys) if num_experts else {}),
            norm_eps=keys.number("rms_norm_eps"),
            rope=parse_rope(keys, max_positions=max_positions),
            tie_embeddings=keys.flag("tie_word_embeddings", default=False),
            attention_bias=keys.flag("attention_bias", default=False),
        )
        keys.finish(inert=_INERT | _routing_to_hf(config).keys())  # without experts nothing reads the latter
        return config

    def to_hf(self) -> dict[str, Any]:
        """The config.json, as transformers 5 spells it, that `from_hf` reads back."""
        # where this lets it, transformers builds a mixture even of no experts
        no_experts = {"first_k_dense_replace": self.num_layers}
        return {
            "architectures": ["DeepseekV2ForCausalLM"],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            **latent_to_hf(self.latent, num_heads=self.num_heads),
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "n_routed_experts": self.num_experts,
            **(_routing_to_hf(self) if self.num_experts else no_experts),
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
        }


def _number(keys: ConfigKeys, key: str) -> int:
    """null is none; but a file must say so, for readers differ in what they take the key's absence for."""
    return keys.count(key, default=0) if key in keys.raw else keys.integer(key)


def _parse_routing(keys: ConfigKeys) -> dict[str, Any]:
    method = keys.text("topk_method", default="greedy")
    if method not in ("greedy", _GROUPED):
        raise ValueError(f"topk_method {method!r} is not supported; supported are greedy and {_GROUPED}")
    groups: dict[str, Any] = {}
    if method == _GROUPED:
        groups = {"num_groups": keys.integer("n_group"), "groups_per_token": keys.integer("topk_group")}
    return groups | {
        "experts_per_token": keys.integer("num_experts_per_tok"),
        "expert_dim": keys.integer("moe_intermediate_size"),
        "num_shared_experts": _number(keys, "n_shared_experts"),
        "routed_scale": keys.number("routed_scaling_factor", default=1.0),
        "dense_layers": keys.count("first_k_dense_replace"),
        "sparse_step": keys.integer("moe_layer_freq", default=1),
    }


def _routing_to_hf(config: Config) -> dict[str, Any]:
    return {
        "topk_method": "greedy" if config.num_groups == 1 else _GROUPED,
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_dim,
        "n_shared_experts": config.num_shared_experts,
        "n_group": config.num_groups,
        "topk_group": config.groups_per_token,
        "norm_topk_prob": False,
        "routed_scaling_factor": config.routed_scale,
        "first_k_dense_replace": config.dense_layers,
        "moe_layer_freq": config.sparse_step,
    }


class Router(nn.Module):
    """Each token's likeliest experts, weighted by their probabilities (§2.2.1), in few groups (§2.2.2)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.dim))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the chosen experts, both (N, A), for tokens (N, C); fp32, for close calls."""
        shares = F.linear(tokens.float(), self.weight.float()).softmax(-1)  # (N, E)
        weights, chosen = self._eligible(shares).topk(self.config.experts_per_token)  # (N, A)
        return weights * self.config.routed_scale, chosen

    def _eligible(self, shares: Tensor) -> Tensor:
        """Shares (N, E), with 0 in the groups whose likeliest expert is behind those of others."""
        if self.config.groups_per_token == self.config.num_groups:
            return shares
        groups = shares.unflatten(1, (self.config.num_groups, -1))  # (N, G, E/G)
        best = groups.amax(-1).topk(self.config.groups_per_token).indices
        hidden = torch.ones_like(groups[..., 0], dtype=torch.bool).scatter(1, best, False)  # (N, G)
        return groups.masked_fill(hidden[..., None], 0.0).flatten(1)


class MLP(nn.Module):
    """The routed experts of each token, and those that all tokens share, which are one MLP of their joint width."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, width = config, config.num_shared_experts * config.expert_dim
        self.router = Router(c)
        self.experts = Experts(c.num_experts, c.dim, c.expert_dim)
        self.shared = GatedMLP(c.dim, width) if width else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        routed = self.experts(tokens, *self.router(tokens)).view_as(x)
        return routed if self.shared is None else routed + self.shared(x)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.dim, c.norm_eps)
        self.attention = LatentAttention(
            c.latent, layer, dim=c.dim, num_heads=c.num_heads, rope=c.rope, turn=turn_pairs, bias=c.attention_bias
        )
        self.mlp_norm = RMSNorm(c.dim, c.norm_eps)
        self.mlp = MLP(c) if c.is_sparse(layer) else GatedMLP(c.dim, c.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a DeepSeek-V2: see `Decoder` for what goes in and comes out."""

    def __init__(self, config: Config, part: str | PartSpec = "f") -> None:
        c = config
        super().__init__(
            c,
            part,
            begin=lambda: TokenEmbedding(c.vocab_size, c.dim),
            block=lambda layer: Block(c, layer),
            end=lambda: Head(RMSNorm(c.dim, c.norm_eps), c.dim, c.vocab_size),
            cache=CacheShape(
                num_kv_heads=1,
                head_dim=c.latent.kv_rank + c.latent.turned_dim,
                value_dim=0,
                long_from=c.rope.long_from,
            ),
        )

    def context(self, plan: Plan, dtype: torch.dtype) -> RopeTable:
        c = self.config
        return plan.rope_table(c.rope, c.latent.turned_dim)


# Hugging Face's name -> ours
NAMES: dict[str, str] = DEEPSEEK_NAMES


def _preset(layers: int, dim: int, hidden: int, heads: int, q_rank: int | None, mscale: float, **more: Any) -> Config:
    latent = Latent(q_rank=q_rank, kv_rank=512, still_dim=128, turned_dim=64, value_dim=128)
    rope = Rope(kind="yarn", factor=40.0, original_max_positions=4_096, mscale=mscale, mscale_all_dim=mscale)
    values: dict[str, Any] = {"vocab_size": 102_400, "max_positions": 163_840, "rope": rope, "latent": latent} | more
    values |= {"experts_per_token": 6, "num_shared_experts": 2, "dense_layers": 1}
    return Config(num_layers=layers, dim=dim, hidden_dim=hidden, num_heads=heads, **values)


_LITE: dict[str, Any] = {"num_experts": 64, "expert_dim": 1408}
_FULL: dict[str, Any] = {"num_experts": 160, "expert_dim": 1536, "num_groups": 8, "groups_per_token": 3}

# The sizes people name, from the config.json of each release: layers, C, hidden width, H, rank of the queries, mscale
PRESETS: dict[str, Config] = {
    "DeepSeek-V2-Lite": _preset(27, 2048, 10944, 16, None, 0.707, **_LITE),
    "DeepSeek-V2": _preset(60, 5120, 12288, 128, 1536, 0.707, routed_scale=16.0, **_FULL),
    "DeepSeek-Coder-V2-Lite": _preset(27, 2048, 10944, 16, None, 0.707, **_LITE),
}
