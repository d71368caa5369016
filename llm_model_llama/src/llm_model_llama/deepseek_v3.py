"""DeepSeek-V3 in one file (arXiv 2412.19437): latent attention, and a mixture of experts balanced by a bias alone.

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
from llm_model_llama.mla import (
    Latent,
    LatentAttention,
    latent_to_hf,
    parse_latent,
    turn_halves,
    turn_pairs,
)
from llm_sepweight import PartSpec

_TRAINING = {"aux_loss_alpha", "ep_size", "output_router_logits", "pretraining_tp", "seq_aux"}
_FURTHER_TOKENS = {"num_mtp_layers", "num_nextn_predict_layers"}  # how many layers predict those: they are not loaded
_INERT = INERT_KEYS | _TRAINING | _FURTHER_TOKENS


@dataclass(frozen=True, kw_only=True)
class Config:
    """What this architecture reads.

    From layer `dense_layers` on, those whose number `sparse_step` divides are mixtures of experts; none is if
    `num_experts` is 0. A token's experts come from the best `groups_per_token` of `num_groups` groups.
    """

    model_type: ClassVar[str] = "deepseek_v3"

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
    normalize_weights: bool = True
    routed_scale: float = 1.0
    dense_layers: int = 0
    sparse_step: int = 1
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    interleaved: bool = True
    tie_embeddings: bool = False
    attention_bias: bool = False

    def __post_init__(self) -> None:
        size, rest = divmod(self.num_experts, self.num_groups)
        if rest or self.groups_per_token > self.num_groups:
            chosen = f"{self.groups_per_token} of {self.num_groups} groups"
            raise ValueError(f"{self.num_experts} experts can't be taken from {chosen}: groups must be of one size")
        if size == 1 < self.num_groups:
            raise ValueError("groups compare by their two best experts, so there must be fewer groups than experts / 2")
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
        keys.require("hidden_act", ("silu", "swish"), "a DeepSeek-V3 has silu")
        keys.require("scoring_func", ("sigmoid",), "a DeepSeek-V3 scores experts by a sigmoid")
        keys.require("topk_method", ("noaux_tc",), "a DeepSeek-V3 chooses experts by their scores and a bias")
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
            interleaved=keys.flag("rope_interleave", default=True),
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
            "architectures": ["DeepseekV3ForCausalLM"],
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
            "num_nextn_predict_layers": 0,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": rope_to_hf(self.rope),
            "rope_interleave": self.interleaved,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
        }


def _number(keys: ConfigKeys, key: str) -> int:
    """null is none; but a file must say so, for readers differ in what they take the key's absence for."""
    return keys.count(key, default=0) if key in keys.raw else keys.integer(key)


def _parse_routing(keys: ConfigKeys) -> dict[str, Any]:
    return {
        "experts_per_token": keys.integer("num_experts_per_tok"),
        "expert_dim": keys.integer("moe_intermediate_size"),
        "num_shared_experts": _number(keys, "n_shared_experts"),
        "num_groups": keys.integer("n_group"),
        "groups_per_token": keys.integer("topk_group"),
        "normalize_weights": keys.flag("norm_topk_prob"),
        "routed_scale": keys.number("routed_scaling_factor"),
        "dense_layers": keys.count("first_k_dense_replace"),
        "sparse_step": keys.integer("moe_layer_freq", default=1),
    }


def _routing_to_hf(config: Config) -> dict[str, Any]:
    return {
        "num_experts_per_tok": config.experts_per_token,
        "moe_intermediate_size": config.expert_dim,
        "n_shared_experts": config.num_shared_experts,
        "n_group": config.num_groups,
        "topk_group": config.groups_per_token,
        "norm_topk_prob": config.normalize_weights,
        "routed_scaling_factor": config.routed_scale,
        "first_k_dense_replace": config.dense_layers,
        "moe_layer_freq": config.sparse_step,
    }


class Router(nn.Module):
    """Each token's experts and their weights (§2.1.2): the bias sways the choice of an expert, not its weight."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.dim))
        self.bias = nn.Parameter(torch.empty(config.num_experts))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the chosen experts, both (N, A), for tokens (N, C); fp32, for close calls."""
        c = self.config
        scores = F.linear(tokens.float(), self.weight.float()).sigmoid()  # (N, E)
        chosen = self._eligible(scores + self.bias.float()).topk(c.experts_per_token).indices  # (N, A)
        weights = scores.gather(1, chosen)
        if c.normalize_weights:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return weights * c.routed_scale, chosen

    def _eligible(self, scores: Tensor) -> Tensor:
        """Scores (N, E), with minus infinity in the groups whose two best have a lower sum than those of others."""
        if self.config.groups_per_token == self.config.num_groups:
            return scores
        groups = scores.unflatten(1, (self.config.num_groups, -1))  # (N, G, E/G)
        totals = groups.topk(2).values.sum(-1)  # (N, G)
        best = totals.topk(self.config.groups_per_token).indices
        hidden = torch.ones_like(totals, dtype=torch.bool).scatter(1, best, False)
        return groups.masked_fill(hidden[..., None], float("-inf")).flatten(1)


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
        turn = turn_pairs if c.interleaved else turn_halves
        self.attention_norm = RMSNorm(c.dim, c.norm_eps)
        self.attention = LatentAttention(
            c.latent, layer, dim=c.dim, num_heads=c.num_heads, rope=c.rope, turn=turn, bias=c.attention_bias
        )
        self.mlp_norm = RMSNorm(c.dim, c.norm_eps)
        self.mlp = MLP(c) if c.is_sparse(layer) else GatedMLP(c.dim, c.hidden_dim)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, plan)
        return x + self.mlp(self.mlp_norm(x))


class Model(Decoder):
    """The layers of `part` of a DeepSeek-V3: see `Decoder` for what goes in and comes out."""

    exact = ("mlp.router.bias",)  # it lies near 7 in released models, where bf16 would tell few values apart

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
NAMES: dict[str, str] = DEEPSEEK_NAMES | {
    "model.layers.{i}.mlp.gate.e_score_correction_bias": "mid.{i}.mlp.router.bias",
    "model.layers.{beyond}.*": "",  # layers that predict a second token stand after the last
}


def _preset(layers: int, dim: int, hidden: int, heads: int, q_rank: int | None, **more: Any) -> Config:
    latent = Latent(q_rank=q_rank, kv_rank=512, still_dim=128, turned_dim=64, value_dim=128)
    return Config(num_layers=layers, dim=dim, hidden_dim=hidden, num_heads=heads, latent=latent, **more)


_V3_ROUTING: dict[str, Any] = {"num_experts": 256, "experts_per_token": 8, "expert_dim": 2048, "num_shared_experts": 1}
_V3_ROUTING |= {"num_groups": 8, "groups_per_token": 4, "routed_scale": 2.5, "dense_layers": 3}
_YARN = Rope(kind="yarn", factor=40.0, original_max_positions=4_096, mscale=1.0, mscale_all_dim=1.0)
_V3 = _preset(61, 7168, 18432, 128, 1536, vocab_size=129_280, max_positions=163_840, rope=_YARN, **_V3_ROUTING)

_MOONLIGHT: dict[str, Any] = {"num_experts": 64, "experts_per_token": 6, "expert_dim": 1408, "num_shared_experts": 2}
_MOONLIGHT |= {"routed_scale": 2.446, "dense_layers": 1, "norm_eps": 1e-5, "rope": Rope(theta=50_000.0)}

# The sizes people name, from the config.json of each release: layers, C, hidden width, H, rank of the queries
PRESETS: dict[str, Config] = {
    "DeepSeek-V3": _V3,
    "DeepSeek-R1": _V3,
    "Moonlight-16B-A3B": _preset(27, 2048, 11264, 16, None, vocab_size=163_840, max_positions=8_192, **_MOONLIGHT),
}
