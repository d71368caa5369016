"""Layers that see a window of positions, whose cache keeps little more: against attention written out over all."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_blocks import KVCache, View, alibi_slopes, attend, attend_alibi, attend_softcapped, attention, plan_attention
from llm_blocks.cache import SPARE

CPU = torch.device("cpu")
KINDS = ("plain", "softcapped", "alibi")


@dataclass
class Row:
    """The keys and values of one row, kept whole."""

    k: Tensor
    v: Tensor


def _written_out(q: Tensor, row: Row, positions: Tensor, window: int | None, kind: str) -> Tensor:
    """q (H, T, D) over the row's keys and values (K, S, D)."""
    groups = q.size(0) // row.k.size(0)
    k, v = row.k.repeat_interleave(groups, 0), row.v.repeat_interleave(groups, 0)
    scores = q @ k.transpose(1, 2) / q.size(2) ** 0.5
    distance = positions[:, None] - torch.arange(k.size(1))
    if kind == "softcapped":
        scores = 2.0 * torch.tanh(scores / 2.0)
    if kind == "alibi":
        scores = scores - alibi_slopes(q.size(0))[:, None, None] * distance
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v


def _attend(q: Tensor, k: Tensor, v: Tensor, view, kind: str) -> Tensor:
    if kind == "softcapped":
        return attend_softcapped(q, k, v, view, scale=q.size(3) ** -0.5, cap=2.0)
    if kind == "alibi":
        return attend_alibi(q, k, v, view, slopes=alibi_slopes(q.size(1)))
    return attend(q, k, v, view)


def _check(chunks: list[list[int]], backs: list[int], window: int, length: int, kind: str, padding: int = 0) -> None:
    """Chunks of counts[b] new positions a row, padded, each followed by rolling back: one layer has the window."""
    layers = {0: window, 1: None}
    batch = len(chunks[0])
    sizes = {"num_kv_heads": 2, "head_dim": 4, "dtype": torch.float32, "device": "cpu"}
    cache = KVCache(layers, batch=batch, length=length, windows={0: window}, **sizes)
    assert cache.k[0].size(2) <= window + SPARE
    rows = {layer: [Row(torch.zeros(2, 0, 4), torch.zeros(2, 0, 4)) for _ in range(batch)] for layer in layers}
    for counts, back in zip(chunks, backs, strict=True):
        counts = [min(count, length - n) for count, n in zip(counts, cache.lengths, strict=True)]
        time = max(*counts, 1) + padding
        plan = plan_attention(batch, time, counts=counts, cache=cache, device=CPU, layers=layers)
        for layer, seen in layers.items():
            q, k, v = (torch.randn(batch, heads, time, 4) for heads in (4, 2, 2))
            found = _attend(q, *plan.remember(layer, k, v), kind)
            assert found.isfinite().all()
            for b, (count, start) in enumerate(zip(counts, plan.starts, strict=True)):
                row = rows[layer][b]
                row.k, row.v = (
                    torch.cat((old[:, :start], new[b, :, :count]), 1) for old, new in ((row.k, k), (row.v, v))
                )
                wanted = _written_out(q[b, :, :count], row, torch.arange(start, start + count), seen, kind)
                torch.testing.assert_close(found[b, :, :count], wanted, rtol=1e-4, atol=1e-5)
        plan.commit()
        backs_to = [max(0, n - back) for n in cache.lengths]
        cache.lengths[:] = [
            to if cache.holds(b, to) else n for b, (to, n) in enumerate(zip(backs_to, cache.lengths, strict=True))
        ]


SIZES = st.one_of(st.integers(0, 4), st.integers(SPARE - 2, SPARE + 12))


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data(), batch=st.integers(1, 3), window=st.integers(1, 12))
def test_a_window_over_a_ring_is_a_window_over_everything(
    kind: str, data: st.DataObject, batch: int, window: int
) -> None:
    torch.manual_seed(0)
    alike = data.draw(st.booleans())
    row = SIZES.map(lambda n: [n] * batch) if alike else st.lists(SIZES, min_size=batch, max_size=batch)
    chunks = data.draw(st.lists(row, min_size=1, max_size=6))
    backs = data.draw(st.lists(st.sampled_from([0, 0, 1, 5, SPARE]), min_size=len(chunks), max_size=len(chunks)))
    length, padding = data.draw(st.sampled_from([40, 90, 400])), data.draw(st.sampled_from([0, 0, 1, 15, SPARE + 9]))
    _check(chunks, backs, window, length=length, kind=kind, padding=padding)


@pytest.mark.parametrize("batch", [1, 2])
def test_long_decoding_goes_round_the_ring(batch: int) -> None:
    torch.manual_seed(0)
    _check([[7] * batch, *[[1] * batch] * (3 * SPARE)], [0] * (3 * SPARE + 1), window=5, length=400, kind="plain")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beyond", [-1, 0, 1, 2])
def test_the_edge_of_a_window(kind: str, beyond: int) -> None:
    torch.manual_seed(0)
    _check([[7 + beyond]], [0], window=7, length=400, kind=kind)
    _check([[6 + beyond], [1]], [0, 0], window=7, length=400, kind=kind)
    _check([[3, 2], [3 + beyond, 4 + beyond]], [0, 0], window=7, length=400, kind=kind)


def test_no_two_positions_are_stored_in_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them stays is chance on a GPU, though not on a CPU."""
    torch.manual_seed(0)
    scatter, wholes = KVCache.scatter, []

    def noted(cache: KVCache, layer: int, rows: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        pairs = list(zip(rows.tolist(), (positions % cache.k[layer].size(2)).tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)
        wholes.append(len(pairs))
        scatter(cache, layer, rows, positions, k, v)

    monkeypatch.setattr(KVCache, "scatter", noted)
    _check([[300, 9], [200, 150]], [0, 0], window=8, length=600, kind="plain")
    assert sorted(wholes) == [8 + SPARE + 9, 2 * (8 + SPARE), 309, 350]


def test_a_prompt_longer_than_ring_and_window_at_once() -> None:
    torch.manual_seed(0)
    _check([[300, 9], [1, 1], [120, 150], [1, 1]], [0, 2, SPARE, 0], window=8, length=500, kind="plain")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunks", [[[61, 45]], [[200, 150], [3, 1]], [[0, 90], [0, 3], [0, 0]]])
def test_padding_beyond_a_window_is_no_nan(chunks: list[list[int]], kind: str) -> None:
    """Padding that saw no key became nan, and in the next layer 0 times that nan became every real position."""
    torch.manual_seed(0)
    _check(chunks, [0] * len(chunks), window=8, length=400, kind=kind, padding=20)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_scores_are_written_out_a_block_of_queries_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of all queries and keys was made at once, whatever the size of a block: 2 GB for 32k positions."""
    torch.manual_seed(0)
    sizes, visible = [], View.visible
    monkeypatch.setattr("llm_blocks.attention.BLOCK_BYTES", 4 * 2 * 4 * 100 * 7)

    def noted(view: View, times: slice = slice(None)) -> Tensor:
        mask = visible(view, times)
        sizes.append(mask.size(2))
        return mask

    monkeypatch.setattr(View, "visible", noted)
    _check([[100, 93], [9, 9]], [0, 0], window=12, length=400, kind=kind)
    assert len(sizes) > 20
    assert max(sizes) <= 9


def test_what_a_broken_off_forward_wrote_over_is_not_read_again() -> None:
    """Ctrl-C between two layers left new keys in the ring of the first, which passed for the older ones afterwards."""
    layers: dict[int, int | None] = {0: 8, 1: 8}
    cache = KVCache(
        layers, batch=1, num_kv_heads=1, head_dim=2, length=900, windows={0: 8, 1: 8}, dtype=torch.float32, device=CPU
    )
    x = torch.randn(1, 1, 200, 2)
    plan = plan_attention(1, 200, counts=None, cache=cache, device=CPU, layers=layers)
    for layer in layers:
        plan.remember(layer, x, x)
    plan.commit()
    for time in (5, 100):
        plan = plan_attention(1, time, counts=None, cache=cache, device=CPU, layers=layers)
        plan.remember(0, x[:, :, :time], x[:, :, :time])  # and the second layer never comes
        assert cache.lengths == [200]
        assert cache.holds(0, 200) == (time <= SPARE)
    with pytest.raises(ValueError, match="rolled back from 300 to 200 positions"):
        plan_attention(1, 1, counts=None, cache=cache, device=CPU, layers=layers)


def test_what_a_window_has_forgotten_is_not_read_again() -> None:
    """Rolled back further than the ring keeps, old keys are gone: that must be said, not computed with."""
    cache = KVCache(
        [0], batch=1, num_kv_heads=1, head_dim=2, length=900, windows={0: 4}, dtype=torch.float32, device=CPU
    )
    x = torch.randn(1, 1, 200, 2)
    plan = plan_attention(1, 200, counts=None, cache=cache, device=CPU, layers={0: 4})
    plan.remember(0, x, x)
    plan.commit()
    assert cache.holds(0, 200 - SPARE - 1)
    cache.lengths[0] = 200 - SPARE - 2
    with pytest.raises(ValueError, match="rolled back from 200 to 134 positions, further than the 64"):
        plan_attention(1, 1, counts=None, cache=cache, device=CPU, layers={0: 4})
    assert not cache.holds(0, 134)
    assert cache.holds(0, 200 - SPARE)
    copy = KVCache(
        [0], batch=1, num_kv_heads=1, head_dim=2, length=900, windows={0: 4}, dtype=torch.float32, device=CPU
    )
    copy.copy_from(cache)
    assert not copy.holds(0, 134)
    cache.lengths[0] = 200 - SPARE  # what was forgotten before stays so, however little is written after it
    plan_attention(1, 1, counts=None, cache=cache, device=CPU, layers={0: 4}).commit()
    assert not cache.holds(0, 134)
    cache.lengths[0] = 0  # from the start all is written anew
    plan_attention(1, 9, counts=None, cache=cache, device=CPU, layers={0: 4}).commit()
    assert cache.holds(0, 5)
    plan_attention(1, 1, counts=None, cache=cache, device=CPU, layers={0: 4})


@pytest.mark.parametrize(("old", "new"), [(60, 90), (90, 600), (600, 700), (700, 80)])
def test_rows_are_copied_with_what_their_windows_hold(old: int, new: int) -> None:
    torch.manual_seed(0)
    sizes = {"num_kv_heads": 1, "head_dim": 2, "windows": {0: 6}, "dtype": torch.float32, "device": "cpu"}
    one = KVCache([0, 1], batch=1, length=old, **sizes)
    two = KVCache([0, 1], batch=2, length=new, **sizes)
    layers, time = {0: 6, 1: None}, min(old, 75)
    x = torch.randn(1, 1, time + 1, 2)
    plan = plan_attention(1, time, counts=None, cache=one, device=CPU, layers=layers)
    for layer in layers:
        plan.remember(layer, x[:, :, :-1], x[:, :, :-1])
    plan.commit()
    two.copy_from(one, 2)
    assert two.lengths == [time] * 2
    plan = plan_attention(2, 1, counts=None, cache=two, device=CPU, layers=layers)
    for layer, window in layers.items():
        last = x[:, :, -1:].repeat(2, 1, 1, 1)
        found = attend(last, *plan.remember(layer, last, last))
        wanted = _written_out(x[0, :, -1:], Row(x[0], x[0]), torch.tensor([time]), window, "plain")
        torch.testing.assert_close(found, wanted.expand_as(found))


def test_a_row_that_was_rolled_back_is_copied_into_a_shorter_cache() -> None:
    """Positions beyond the row's length stood in the way, though layers without a window need none of them."""
    sizes = {"num_kv_heads": 1, "head_dim": 2, "dtype": torch.float32, "device": "cpu"}
    long, short = KVCache([0], batch=1, length=300, **sizes), KVCache([0], batch=2, length=20, **sizes)
    x = torch.randn(1, 1, 200, 2)
    plan = plan_attention(1, 200, counts=None, cache=long, device=CPU)
    plan.remember(0, x, x)
    plan.commit()
    long.truncate(12)
    short.copy_from(long, 2)
    assert short.lengths == [12, 12]
    assert short.k[0][:, :, :12].equal(x[:, :, :12].expand(2, -1, -1, -1))
    assert short.v[0][:, :, 12:].eq(0).all()


def test_slopes_are_those_of_the_paper() -> None:
    """§3: 1/2, 1/4, … 1/256 for 8 heads; between powers of two every second slope of twice as many is added."""
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(3).tolist() == [2**-4, 2**-8, 2**-2]


def test_gradients_flow_where_attention_is_written_out() -> None:
    plan = plan_attention(1, 5, counts=None, cache=None, device=CPU, layers={0: 3})
    for kind in KINDS:
        q, k, v = (torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3))
        _attend(q, k, v, plan.views[3], kind).square().sum().backward()
        assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alibi_written_out_is_alibi(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is computed where SDPA has no room for fp32 biases; distances far beyond 256, which bf16 can't tell."""
    torch.manual_seed(0)
    cache = KVCache([0], batch=2, num_kv_heads=2, head_dim=8, length=700, dtype=dtype, device="cpu")
    found = []
    for fused in (True, False):
        monkeypatch.setattr(attention, "_takes_fp32_bias", lambda _, fused=fused: fused)
        torch.manual_seed(1)
        cache.truncate(0)
        for counts in ([600, 600], [3, 1]):
            q = torch.randn(2, 4, max(counts), 8).to(dtype)
            k, v = (torch.randn(2, 2, max(counts), 8).to(dtype) for _ in range(2))
            plan = plan_attention(2, max(counts), counts=counts, cache=cache, device=CPU)
            found.append(_attend(q, *plan.remember(0, k, v), "alibi"))
            plan.commit()
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for fused, written in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(fused, written, rtol=tolerance, atol=tolerance)
