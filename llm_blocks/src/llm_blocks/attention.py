"""Grouped attention over scaled_dot_product_attention.

Shapes: B batch, T time (new positions), S positions to look at, H heads, K kv heads, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_blocks.cache import KVCache

Remember = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the new positions of one forward stand and what they may see: made once, used by every layer.

    A query at position p of a row sees the keys 0 to p of that row. With `causal` the keys are the new ones
    themselves; else `mask` (1 or B, 1, T, S) is True where a query sees a key, None where each query sees all S.
    """

    positions: Tensor  # (1 or B, T) int64
    starts: list[int]
    ends: list[int]
    causal: bool
    mask: Tensor | None
    cache: KVCache | None
    pairs: tuple[Tensor, Tensor, Tensor] | None  # row, time and slot of each real new position, where rows differ

    def remember(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (B, K, T, D) of a layer; return those to look at, (B, K, S, D)."""
        if self.cache is None:
            return k, v
        start, end = min(self.starts), max(self.ends)
        if self.pairs is None:
            width = end - start  # right padding beyond the longest row is dropped
            self.cache.write(layer, slice(start, end), k[:, :, :width], v[:, :, :width])
        else:
            rows, times, slots = self.pairs
            self.cache.scatter(layer, rows, slots, k[rows, :, times], v[rows, :, times])
        if self.causal:
            return k, v
        k_all, v_all = self.cache.k[layer][:, :, :end], self.cache.v[layer][:, :, :end]
        return k_all.to(k.dtype), v_all.to(v.dtype)  # the cache may keep another dtype

    def commit(self) -> None:
        """Count the new positions in, after every layer has stored them."""
        if self.cache is not None:
            self.cache.lengths[:] = self.ends


def plan_attention(
    batch: int, time: int, *, counts: list[int] | None, cache: KVCache | None, device: torch.device
) -> Plan:
    """Plan a forward over (B, T) new positions, of which the first counts[b] of row b are real, the rest padding.

    Raises ValueError for counts that don't fit the input and for a cache without room; nothing is written then.
    """
    counts = check_counts(batch, time, counts)
    starts, ends = ([0] * batch, counts) if cache is None else (list(cache.lengths), cache.ends(counts))
    level = min(starts) == max(starts)
    if level:
        positions = torch.arange(starts[0], starts[0] + time, device=device)[None]  # (1, T)
    else:
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(time, device=device)  # (B, T)
    causal = max(starts) == 0
    alone = level and time == 1  # one query, the newest of every row, sees all there is
    mask = None if causal or alone else _visible(positions, max(ends))
    pairs = None if level else _pairs(starts, counts, device)
    return Plan(positions=positions, starts=starts, ends=ends, causal=causal, mask=mask, cache=cache, pairs=pairs)


def check_counts(batch: int, time: int, counts: list[int] | None) -> list[int]:
    """The number of real positions of each row, all T by default; ValueError for one outside 0 to T."""
    if counts is None:
        return [time] * batch
    if len(counts) != batch or not all(0 <= count <= time for count in counts):
        raise ValueError(f"counts needs one number from 0 to {time} for each of the {batch} rows, got {counts}")
    return counts


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    """Attention of queries (B, H, T, D) over keys and values (B, K, S, D): (B, H, T, D).

    H is a multiple of K: each kv head serves H/K neighbouring query heads and is never copied (arXiv 2305.13245).
    """
    batch, heads, time, dim = q.shape
    groups = heads // k.size(1)
    if time == 1:  # the queries that share a kv head become its time axis: one product reads each key once
        folded = F.scaled_dot_product_attention(q.reshape(batch, -1, groups, dim), k, v, attn_mask=plan.mask)
        return folded.reshape(batch, heads, 1, dim)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=plan.mask, is_causal=plan.causal, enable_gqa=groups > 1)


def last_real(x: Tensor, counts: list[int] | None) -> Tensor:
    """The last real position of each row of x (B, T, C): (B, 1, C). A row without any gives its first."""
    if counts is None or min(counts) == x.size(1):
        return x[:, -1:]
    last = torch.tensor([max(count - 1, 0) for count in counts], device=x.device)
    return x[torch.arange(x.size(0), device=x.device), last][:, None]


def _visible(positions: Tensor, extent: int) -> Tensor:
    """Which of S = extent keys each position sees: (1 or B, 1, T, S) bool."""
    return (torch.arange(extent, device=positions.device) <= positions[..., None])[:, None]


def _pairs(starts: list[int], counts: list[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    times = [time for count in counts for time in range(count)]
    slots = [starts[row] + time for row, time in zip(rows, times, strict=True)]
    rows, times, slots = torch.tensor([rows, times, slots], dtype=torch.int64, device=device)
    return rows, times, slots
