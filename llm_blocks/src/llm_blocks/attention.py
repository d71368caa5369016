"""Grouped attention over scaled_dot_product_attention, and written out where that has no room for a method.

Shapes: B batch, T time (new positions), S keys to look at, H heads, K kv heads, D head size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_blocks.beside import BesideView
from llm_blocks.packed import PackedView
from llm_blocks.plan import StepView, View
from llm_quant import steps

AnyView: TypeAlias = View | StepView | PackedView | BesideView

_MADE_OF_OTHERS = (PackedView, BesideView)
BLOCK_BYTES = 16 * 2**20  # what the scores of one block of queries may take: more leaves the caches of a processor


def attend(q: Tensor, k: Tensor, v: Tensor, view: AnyView, *, scale: float | None = None) -> Tensor:
    """Attention of queries (B, H, T, D) over keys and values (B, K, S, D): (B, H, T, D).

    H is a multiple of K: each kv head serves H/K neighbouring query heads and is never copied (arXiv 2305.13245).
    `scale` multiplies the scores, by default 1 / sqrt(D).
    """
    if isinstance(view, _MADE_OF_OTHERS):
        return view.attend(partial(attend, scale=scale), q, k, v)
    batch, heads, time, dim = q.shape
    y = _step(q, view, dim**-0.5 if scale is None else scale)
    if y is not None:
        return y
    k, v = _numbers(k, v, view)
    groups = heads // k.size(1)
    if time == 1:  # the queries that share a kv head become its time axis: one product reads each key once
        folded = q.reshape(batch, -1, groups, dim)
        if view.spelled_out:
            folded = _spelled_out(folded, k, v, view, dim**-0.5 if scale is None else scale)
        else:
            folded = F.scaled_dot_product_attention(folded, k, v, attn_mask=view.mask, scale=scale)
        return folded.reshape(batch, heads, 1, -1)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=view.mask, is_causal=view.causal, scale=scale, enable_gqa=groups > 1
    )


def attend_softcapped(q: Tensor, k: Tensor, v: Tensor, view: AnyView, *, scale: float, cap: float) -> Tensor:
    """Attention whose scaled scores s become cap * tanh(s / cap) before the softmax (Gemma 2, arXiv 2408.00118 §2)."""
    if isinstance(view, _MADE_OF_OTHERS):
        return view.attend(partial(attend_softcapped, scale=scale, cap=cap), q, k, v)
    y = _step(q, view, scale, cap=cap)
    if y is not None:
        return y
    k, v = _numbers(k, v, view)

    def block(q: Tensor, k: Tensor, v: Tensor, times: slice) -> Tensor:
        scores = torch.tanh(_products(q, k) * (scale / cap)) * cap
        if not view.alone:
            scores = scores.masked_fill_(~view.visible(times)[..., : k.size(2)], float("-inf"))
        return _weighted(scores, v)

    return _by_blocks(q, k, v, view, block)


def attend_alibi(
    q: Tensor, k: Tensor, v: Tensor, view: AnyView, *, slopes: Tensor, scale: float | None = None
) -> Tensor:
    """Attention with linear biases: a key at distance d lowers its score by slope * d (arXiv 2108.12409).

    `slopes` (H,) belong to the heads; positions are those of the view, so nothing else marks them.
    """
    if isinstance(view, BesideView):
        by_distance = partial(attend_alibi, slopes=slopes, scale=scale)
        return view.attend(by_distance, q, k, v, unplaced=partial(attend, scale=scale))
    if isinstance(view, PackedView):
        return view.attend(partial(attend_alibi, slopes=slopes, scale=scale), q, k, v)
    factor = q.size(3) ** -0.5 if scale is None else scale
    y = _step(q, view, factor, slopes=slopes.float())
    if y is not None:
        return y
    k, v = _numbers(k, v, view)
    falls = -slopes.float().view(1, -1, 1, 1)

    def block(q: Tensor, k: Tensor, v: Tensor, times: slice) -> Tensor:
        distance = view.queries[:, times, None] - view.keys[:, None, : k.size(2)]  # (1 or B, T, S)
        bias = falls * distance[:, None].float()  # (1 or B, H, T, S)
        if not view.alone:
            bias = bias.masked_fill_(~view.visible(times)[..., : k.size(2)], float("-inf"))
        if not _takes_fp32_bias(q):
            return _weighted(_products(q, k) * factor + bias, v)
        grouped = q.size(1) != k.size(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=factor, enable_gqa=grouped)

    return _by_blocks(q, k, v, view, block)


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


def _step(q: Tensor, view: View | StepView, scale: float, **more: Any) -> Tensor | None:
    """Attention of few new positions by the kernels; None where they don't."""
    if view.kept is None:
        return None
    return steps.attend(q, view.kept, view.starts, view.ends, scale=scale, window=view.window, **more)


def _numbers(k: Tensor, v: Tensor, view: View | StepView) -> tuple[Tensor, Tensor]:
    """The keys and values themselves, where those of a step have shapes alone."""
    return view.numbers(k.dtype) if isinstance(view, StepView) and k.is_meta else (k, v)


def _spelled_out(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float) -> Tensor:
    """Attention of queries (B, K, G, D) to keys (B, K, S, D) as sums of products, which a compiler shares out by key.

    A kernel for attention would give the few heads of one position to as few processors of a GPU.
    """
    scores = (q[:, :, :, None].float() * k[:, :, None].float()).sum(-1) * scale  # (B, K, G, S)
    if view.mask is not None:
        scores = scores.masked_fill(~view.mask, float("-inf"))
    return (scores.softmax(-1)[..., None] * v[:, :, None].float()).sum(-2).to(v.dtype)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """The scores (B, H, T, S) of queries (B, H, T, D) and keys (B, K, S, D), in fp32."""
    groups = q.unflatten(1, (k.size(1), -1))  # (B, K, H/K, T, D)
    # the queries that share a kv head are one matrix, so that no key is copied
    scores = groups.flatten(2, 3) @ k.transpose(2, 3)  # (B, K, H/K * T, S)
    return scores.unflatten(2, groups.shape[2:4]).flatten(1, 2).float()


def _weighted(scores: Tensor, v: Tensor) -> Tensor:
    """Values (B, K, S, D) added up by the softmax of scores (B, H, T, S): (B, H, T, D)."""
    weights = scores.softmax(-1).to(v.dtype).unflatten(1, (v.size(1), -1))  # (B, K, H/K, T, S)
    return (weights.flatten(2, 3) @ v).unflatten(2, weights.shape[2:4]).flatten(1, 2)


def _takes_fp32_bias(q: Tensor) -> bool:
    """Whether SDPA adds fp32 biases to scores of such queries.

    Off the CPU they have to be of the queries' dtype, and in bf16 distances beyond 256 would not be exact.
    """
    return q.device.type == "cpu" or q.dtype == torch.float32


def _by_blocks(q: Tensor, k: Tensor, v: Tensor, view: View | StepView, block: Callable[..., Tensor]) -> Tensor:
    """`block(q, k, v, times)` for some queries at a time, whose scores of all heads are to fit into BLOCK_BYTES.

    Where a query sees no key after its own, later keys are left out.
    """
    batch, heads, time, _ = q.shape
    size = max(1, BLOCK_BYTES // (4 * batch * heads * k.size(2)))
    blocks = []
    for start in range(0, time, size):
        times = slice(start, min(start + size, time))
        keys = slice(times.stop if view.causal else None)
        blocks.append(block(q[:, :, times], k[:, :, keys], v[:, :, keys], times))
    return torch.cat(blocks, dim=2)
