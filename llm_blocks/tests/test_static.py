"""The plan of compiled steps, against the plan of plain ones: the same keys and values through both."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_blocks import KVCache, alibi_slopes, attend, attend_alibi, attend_softcapped, plan_attention
from llm_blocks.cache import SPARE
from llm_blocks.static import StaticPlan

SIZES: dict[str, Any] = {"num_kv_heads": 2, "head_dim": 4, "dtype": torch.float32, "device": "cpu"}
KINDS: dict[str, Callable[..., Tensor]] = {
    "plain": attend,
    "softcapped": lambda q, k, v, view: attend_softcapped(q, k, v, view, scale=0.5, cap=2.0),
    "alibi": lambda q, k, v, view: attend_alibi(q, k, v, view, slopes=alibi_slopes(q.size(1))),
}


def _caches(batch: int, length: int, window: int) -> list[KVCache]:
    return [KVCache((0, 1), batch=batch, length=length, windows={0: window}, **SIZES) for _ in range(2)]


def _static(cache: KVCache, counts: list[int], time: int, window: int) -> StaticPlan:
    """The last real position is repeated, and a row without any has -1."""
    positions = [
        [start + min(t, count - 1) if count else -1 for t in range(time)]
        for start, count in zip(cache.lengths, counts, strict=True)
    ]
    store = {layer: (cache.k[layer], cache.v[layer]) for layer in cache.k}
    return StaticPlan(torch.tensor(positions), store, {0: window, 1: None})


def _check(chunks: list[tuple[list[int], int]], window: int, length: int, kind: str) -> None:
    """Chunks of counts[b] new positions a row, each followed by rolling all rows back by a number of positions."""
    layers = {0: window, 1: None}
    plain, static = _caches(len(chunks[0][0]), length, window)
    for counts, back in chunks:
        counts = [min(count, length - n) for count, n in zip(counts, plain.lengths, strict=True)]
        time = max(*counts, 1)
        plan = plan_attention(len(counts), time, counts=counts, cache=plain, device=torch.device("cpu"), layers=layers)
        other = _static(static, counts, time, window)
        for layer in layers:
            q, k, v = (torch.randn(len(counts), heads, time, 4) for heads in (4, 2, 2))
            wanted = KINDS[kind](q, *plan.remember(layer, k, v))
            taken = torch.tensor([[min(t, max(count, 1) - 1) for t in range(time)] for count in counts])
            q, k, v = (each.gather(2, taken[:, None, :, None].expand_as(each)) for each in (q, k, v))
            found = KINDS[kind](q, *other.remember(layer, k, v))
            assert found.isfinite().all()
            for b, count in enumerate(counts):
                torch.testing.assert_close(found[b, :, :count], wanted[b, :, :count], rtol=1e-4, atol=1e-5)
        plan.commit()
        lengths = [max(0, n - back) for n in plain.lengths]
        lengths = [to if plain.holds(b, to) else plain.lengths[b] for b, to in enumerate(lengths)]
        plain.lengths[:] = static.lengths[:] = lengths


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.tuples(st.lists(st.integers(0, 16), min_size=2, max_size=2), st.integers(0, 5)), max_size=20),
    window=st.integers(1, 20),
    kind=st.sampled_from(list(KINDS)),
)
def test_any_steps_see_what_plain_steps_see(chunks: list[tuple[list[int], int]], window: int, kind: str) -> None:
    _check([([3, 1], 0), *chunks], window, 200, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_goes_around_twice(kind: str) -> None:
    window = 5
    _check([([1, 1], 0)] * 2 + [([9, 7], 2)] * 40, window, 4 * (window + SPARE), kind)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_spelled_out_is_attention(kv_heads: int) -> None:
    """It runs on CUDA alone, where a compiler makes kernels of it."""
    cache = KVCache((0,), batch=2, length=12, **{**SIZES, "num_kv_heads": kv_heads})
    plan = StaticPlan(torch.tensor([[7], [3]]), {0: (cache.k[0], cache.v[0])}, {0: None})
    for stored in (cache.k[0], cache.v[0]):
        stored.normal_()
    q, k, v = (torch.randn(2, heads, 1, 4) for heads in (4, kv_heads, kv_heads))
    keys, values, view = plan.remember(0, k, v)
    wanted = attend(q, keys, values, view, scale=0.3)
    object.__setattr__(view, "spelled_out", True)
    torch.testing.assert_close(attend(q, keys, values, view, scale=0.3), wanted)
