"""Multi-head latent attention (arXiv 2405.04434 §2.1): of a position, one short vector is remembered for all heads.

That memory is a latent, which a matrix turns into the keys and values of every head, and the part of the keys that is
rotated, which all heads share. A query or key of a head has a still part and a turned one.

Shapes: B batch, T time (new positions), S positions to look at, C width, H heads, R rank of the latents, N still and
P turned dimensions of a query or key, V value size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_blocks import (
    ConfigKeys,
    Plan,
    RMSNorm,
    Rope,
    RopeTable,
    View,
    attend,
    merge_heads,
    pairs_to_halves,
    rotate,
    split_heads,
    yarn_scale,
)

Turn: TypeAlias = Callable[[Tensor, RopeTable], Tensor]
"""`turn_pairs` or `turn_halves`: how the turned dimensions of heads (B, H, T, P) turn by the angles of a table."""

LATENT_EPS = 1e-6  # in the norms of latents, whatever rms_norm_eps is: so the released models were trained


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The sizes of latent attention. Without a `q_rank` queries come from the hidden states directly."""

    q_rank: int | None
    kv_rank: int
    still_dim: int
    turned_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        if self.turned_dim % 2:
            raise ValueError(f"dimensions turn in pairs, so qk_rope_head_dim must be even, got {self.turned_dim}")

    @property
    def head_dim(self) -> int:
        """The size N + P of a query or key."""
        return self.still_dim + self.turned_dim


def parse_latent(keys: ConfigKeys, *, num_heads: int) -> Latent:
    """Read the sizes from a config.json. ValueError names a key that is missing, malformed or not supported."""
    keys.require("use_mla", (True,), "this architecture has latent attention")
    keys.read.add("head_dim")  # transformers writes and ignores it
    keys.require("num_key_value_heads", (num_heads,), "each head has keys and values of its own")
    latent = Latent(
        q_rank=keys.nullable_integer("q_lora_rank", default=1536),
        kv_rank=keys.integer("kv_lora_rank"),
        still_dim=keys.integer("qk_nope_head_dim"),
        turned_dim=keys.integer("qk_rope_head_dim"),
        value_dim=keys.integer("v_head_dim"),
    )
    keys.require("qk_head_dim", (latent.head_dim,), f"still and turned dimensions make {latent.head_dim}")
    return latent


def latent_to_hf(latent: Latent, *, num_heads: int) -> dict[str, Any]:
    """The keys of a config.json that `parse_latent` reads back."""
    return {
        "num_key_value_heads": num_heads,
        "q_lora_rank": latent.q_rank,
        "kv_lora_rank": latent.kv_rank,
        "qk_nope_head_dim": latent.still_dim,
        "qk_rope_head_dim": latent.turned_dim,
        "v_head_dim": latent.value_dim,
    }


class LatentAttention(nn.Module):
    """Attention that remembers R + P numbers of a position; `turn` says how queries and keys are rotated."""

    def __init__(
        self, latent: Latent, layer: int, *, dim: int, num_heads: int, rope: Rope, turn: Turn, bias: bool = False
    ) -> None:
        super().__init__()
        self.latent, self.layer, self.turn = latent, layer, turn
        self.scale = softmax_scale(rope, latent.head_dim)
        if latent.q_rank is None:
            self.q = nn.Linear(dim, num_heads * latent.head_dim, bias=False)
        else:
            self.q_a = nn.Linear(dim, latent.q_rank, bias=bias)
            self.q_a_norm = RMSNorm(latent.q_rank, LATENT_EPS)
            self.q_b = nn.Linear(latent.q_rank, num_heads * latent.head_dim, bias=False)
        self.kv_a = nn.Linear(dim, latent.kv_rank + latent.turned_dim, bias=bias)
        self.kv_a_norm = RMSNorm(latent.kv_rank, LATENT_EPS)
        self.kv_b = LatentHeads(latent, num_heads)
        self.o = nn.Linear(num_heads * latent.value_dim, dim, bias=bias)

    def forward(self, x: Tensor, rope: RopeTable, plan: Plan) -> Tensor:
        sizes = self.latent
        q = self.q(x) if sizes.q_rank is None else self.q_b(self.q_a_norm(self.q_a(x)))
        still, turned = split_heads(q, sizes.head_dim).split([sizes.still_dim, sizes.turned_dim], dim=-1)
        latents, shared = self.kv_a(x)[:, None].split([sizes.kv_rank, sizes.turned_dim], dim=-1)
        memory = torch.cat((self.kv_a_norm(latents), self.turn(shared, rope)), dim=-1)  # (B, 1, T, R + P)
        memory, _, view = plan.remember(self.layer, memory, memory[..., :0])
        out = self.kv_b(still, self.turn(turned, rope), memory, view, scale=self.scale)
        return self.o(merge_heads(out))  # (B, H, T, V) -> (B, T, C)


class LatentHeads(nn.Module):
    """The matrix (H (N + V), R) from latents to the keys and values of every head, and attention by way of it.

    There are two ways to the same result. `expanded` makes the keys and values of all S positions, then attends as
    usual: cheap for many queries, which share that work. `absorbed` moves the matrix over to the queries and to the
    result, so that one key of R + P numbers serves all heads and the memory is read as it is: cheap for few queries.
    """

    def __init__(self, latent: Latent, num_heads: int) -> None:
        super().__init__()
        self.latent, self.num_heads = latent, num_heads
        # not an nn.Linear: absorbing multiplies by parts of it, past whatever may stand in for a layer's forward
        self.weight = nn.Parameter(torch.empty(num_heads * (latent.still_dim + latent.value_dim), latent.kv_rank))

    def forward(self, still: Tensor, turned: Tensor, memory: Tensor, view: View, *, scale: float) -> Tensor:
        """Attention of queries (B, H, T, N) and (B, H, T, P) over the memory (B, 1, S, R + P): (B, H, T, V)."""
        way = self.absorbed if self.absorbing_is_cheaper(still.size(2), memory.size(2)) else self.expanded
        return way(still, turned, memory, view, scale=scale)

    def absorbing_is_cheaper(self, new: int, seen: int) -> bool:
        """Whether `absorbed` takes fewer multiplications than `expanded` for T = new queries over S = seen positions.

        With the sizes of DeepSeek-V3 that is so for up to 170 of them, if S is large.
        """
        sizes = self.latent
        matrix = sizes.kv_rank * (sizes.still_dim + sizes.value_dim)
        expanded = seen * matrix + new * seen * (sizes.head_dim + sizes.value_dim)
        absorbed = new * matrix + new * seen * 2 * (sizes.kv_rank + sizes.turned_dim)
        return absorbed < expanded

    def expanded(self, still: Tensor, turned: Tensor, memory: Tensor, view: View, *, scale: float) -> Tensor:
        """Attention over the keys and values of every head, which are made of the latents."""
        sizes = self.latent
        latents, shared = memory.split([sizes.kv_rank, sizes.turned_dim], dim=-1)  # (B, 1, S, R), (B, 1, S, P)
        heads = split_heads(F.linear(latents[:, 0], self.weight), sizes.still_dim + sizes.value_dim)
        k, v = heads.split([sizes.still_dim, sizes.value_dim], dim=-1)  # (B, H, S, N), (B, H, S, V)
        k = torch.cat((k, shared.expand(-1, self.num_heads, -1, -1)), dim=-1)  # (B, H, S, N + P)
        if sizes.value_dim < sizes.head_dim:  # kernels that never hold all scores at once want both of one size
            v = F.pad(v, (0, sizes.head_dim - sizes.value_dim))
        return attend(torch.cat((still, turned), dim=-1), k, v, view, scale=scale)[..., : sizes.value_dim]

    def absorbed(self, still: Tensor, turned: Tensor, memory: Tensor, view: View, *, scale: float) -> Tensor:
        """Attention over the memory itself: its vectors are both the keys and the values, and all heads share them."""
        sizes = self.latent
        by_head = self.weight.unflatten(0, (self.num_heads, -1))
        to_key, to_value = by_head.split([sizes.still_dim, sizes.value_dim], dim=1)  # (H, N, R), (H, V, R)
        q = torch.cat((still @ to_key, turned), dim=-1)  # (B, H, T, R + P)
        # a view, so no key is copied; a single query has a product that reads each key once for all heads
        keys = memory if q.size(2) == 1 else memory.expand(-1, self.num_heads, -1, -1)
        return attend(q, keys, keys, view, scale=scale)[..., : sizes.kv_rank] @ to_value.mT  # (B, H, T, V)


def turn_pairs(x: Tensor, rope: RopeTable) -> Tensor:
    """Turn neighbouring dimensions of heads (B, H, T, P) against each other, by a table in fp32."""
    return turn_halves(pairs_to_halves(x), rope)


def turn_halves(x: Tensor, rope: RopeTable) -> Tensor:
    """Turn the first half of the dimensions of heads (B, H, T, P) against the second, by a table in fp32."""
    return rotate(x.float(), rope).to(x.dtype)


def softmax_scale(rope: Rope, head_dim: int) -> float:
    """What multiplies the scores: 1 / sqrt(N + P), and with YaRN's mscale_all_dim the square of its scale.

    The square, for the scale is one of a query and one of a key; here it reaches their still parts, too.
    """
    if rope.kind != "yarn" or not rope.mscale_all_dim:
        return head_dim**-0.5
    return head_dim**-0.5 * yarn_scale(rope.factor, rope.mscale_all_dim) ** 2
