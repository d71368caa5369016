"""Grouped attention over scaled_dot_product_attention, and written out where that has no room for a method.

Shapes: B batch, T time (new positions), S keys to look at, H heads, K kv heads, D head size.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_blocks.plan import View

BLOCK_BYTES = 64 * 2**20  # what the scores of one block of queries may take, where they are written out


def attend(q: Tensor, k: Tensor, v: Tensor, view: View, *, scale: float | None = None) -> Tensor:
    """Attention of queries (B, H, T, D) over keys and values (B, K, S, D): (B, H, T, D).

    H is a multiple of K: each kv head serves H/K neighbouring query heads and is never copied (arXiv 2305.13245).
    `scale` multiplies the scores, by default 1 / sqrt(D).
    """
    batch, heads, time, dim = q.shape
    groups = heads // k.size(1)
    if time == 1:  # the queries that share a kv head become its time axis: one product reads each key once
        folded = q.reshape(batch, -1, groups, dim)
        folded = F.scaled_dot_product_attention(folded, k, v, attn_mask=view.mask, scale=scale)
        return folded.reshape(batch, heads, 1, -1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=view.mask, is_causal=view.causal, scale=scale, enable_gqa=groups > 1
    )


def attend_softcapped(q: Tensor, k: Tensor, v: Tensor, view: View, *, scale: float, cap: float) -> Tensor:
    """Attention whose scaled scores s become cap * tanh(s / cap) before the softmax (Gemma 2, arXiv 2408.00118 §2)."""

    def change(scores: Tensor, _: slice) -> Tensor:
        return torch.tanh(scores * (scale / cap)) * cap

    return _written_out(q, k, v, view, change)


def attend_alibi(q: Tensor, k: Tensor, v: Tensor, view: View, *, slopes: Tensor, scale: float | None = None) -> Tensor:
    """Attention with linear biases: a key at distance d lowers its score by slope * d (arXiv 2108.12409).

    `slopes` (H,) belong to the heads; positions are those of the view, so nothing else marks them.
    """
    factor = q.size(3) ** -0.5 if scale is None else scale
    groups = (k.size(1), q.size(1) // k.size(1))
    by_group = slopes.float().view(1, *groups, 1, 1)  # (1, K, H/K, 1, 1)

    def change(scores: Tensor, times: slice) -> Tensor:
        distance = view.queries[:, times, None] - view.keys[:, None]  # (1 or B, T, S)
        return scores * factor - by_group * distance[:, None, None].float()

    return _written_out(q, k, v, view, change)


def alibi_slopes(heads: int) -> Tensor:
    """The slope of each head (H,) fp32: 2^(-8/n), 2^(-16/n), … for n = H a power of two (arXiv 2108.12409, §3).

    For other H the n below it come first, then every second slope of 2n.
    """
    n = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / n) for i in range(n)]
    slopes += [2 ** (-4 * (2 * i + 1) / n) for i in range(heads - n)]
    return torch.tensor(slopes)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H * D) as heads (B, H, T, D)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Heads (B, H, T, D) side by side again: (B, T, H * D)."""
    return x.transpose(1, 2).flatten(2)


def last_real(x: Tensor, counts: list[int] | None) -> Tensor:
    """The last real position of each row of x (B, T, C): (B, 1, C). A row without any gives its first."""
    if counts is None or min(counts) == x.size(1):
        return x[:, -1:]
    last = torch.tensor([max(count - 1, 0) for count in counts], device=x.device)
    return x[torch.arange(x.size(0), device=x.device), last][:, None]


def _written_out(q: Tensor, k: Tensor, v: Tensor, view: View, change: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """softmax(change(q k)) v, with fp32 scores (B, K, H/K, T, S) of a block of queries at a time."""
    batch, heads, time, _ = q.shape
    q = q.unflatten(1, (k.size(1), -1))  # (B, K, H/K, T, D)
    size = max(1, BLOCK_BYTES // (4 * batch * heads * k.size(2)))
    blocks = []
    for start in range(0, time, size):
        times = slice(start, start + size)
        block = q[:, :, :, times]
        # the queries that share a kv head are one matrix, so that no key is copied
        products = (block.flatten(2, 3) @ k.transpose(2, 3)).unflatten(2, block.shape[2:4])
        scores = change(products.float(), times)
        if not view.alone:
            hidden = ~view.visible(times)[:, :, None]  # (1 or B, 1, 1, T, S)
            scores = scores.masked_fill(hidden, float("-inf"))
        weights = scores.softmax(-1).to(v.dtype)
        blocks.append((weights.flatten(2, 3) @ v).unflatten(2, block.shape[2:4]))  # (B, K, H/K, T, D)
    return torch.cat(blocks, dim=3).flatten(1, 2)
