"""Filters against their definitions, on random logits with ties and extremes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import filters

VALUES = st.floats(-20, 20, width=32) | st.sampled_from([0.0, 1.0, -torch.inf])
UNIT = st.floats(0.01, 1.0)


@st.composite
def logit_batches(draw: st.DrawFn) -> Tensor:
    rows, vocab = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    values = draw(st.lists(st.lists(VALUES, min_size=vocab, max_size=vocab), min_size=rows, max_size=rows))
    logits = torch.tensor(values)
    logits[:, 0] = logits[:, 0].clamp(min=-20)  # a row needs one token that is possible
    return logits


def kept(logits: Tensor) -> Tensor:
    return logits > -torch.inf


@given(logit_batches(), UNIT)
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(logits: Tensor, p: float):
    probs, mask = logits.softmax(-1), kept(filters.top_p(logits, p))
    for row, keep in zip(probs, mask, strict=True):
        assert keep.any()
        assert row[keep].sum() >= p - 1e-4
        # Without its least probable token the set is too small, so it was the smallest one.
        assert row[keep].sum() - row[keep].min() < p + 1e-4
        assert row[keep].min() >= row[~keep].amax() if (~keep).any() else True


@given(logit_batches(), UNIT)
def test_typical_p_keeps_the_least_surprising_mass(logits: Tensor, p: float):
    probs, mask = logits.softmax(-1), kept(filters.typical_p(logits, p))
    surprise = (-probs.log() - torch.special.entr(probs).sum(-1, keepdim=True)).abs()
    for row, keep, distance in zip(probs, mask, surprise, strict=True):
        assert row[keep].sum() >= p - 1e-4
        if (~keep & (row > 0)).any():
            assert distance[keep].max() <= distance[~keep & (row > 0)].min() + 1e-4


@given(logit_batches(), st.integers(1, 12))
def test_top_k_keeps_exactly_the_k_largest(logits: Tensor, k: int):
    for row, out in zip(logits, filters.top_k(logits, k), strict=True):
        expected = row.sort(descending=True).values[:k]
        survivors = out.sort(descending=True).values[:k]
        assert torch.equal(survivors, expected)
        assert kept(out).sum() == kept(expected).sum()


@given(logit_batches(), st.floats(0, 1))
def test_min_p_keeps_what_is_probable_enough_beside_the_best(logits: Tensor, p: float):
    probs, mask = logits.softmax(-1), kept(filters.min_p(logits, p))
    limit = p * probs.amax(-1, keepdim=True)
    assert mask[probs > limit * 1.001].all()
    assert not mask[probs < limit * 0.999].any()
    assert mask.any(-1).all()


@given(logit_batches(), st.tuples(UNIT, UNIT).map(sorted), st.tuples(st.integers(1, 9), st.integers(1, 9)).map(sorted))
def test_a_wider_filter_keeps_what_a_narrower_one_keeps(logits: Tensor, ps: list[float], ks: list[int]):
    assert (kept(filters.top_p(logits, ps[0])) <= kept(filters.top_p(logits, ps[1]))).all()
    assert (kept(filters.typical_p(logits, ps[0])) <= kept(filters.typical_p(logits, ps[1]))).all()
    assert (kept(filters.min_p(logits, ps[1])) <= kept(filters.min_p(logits, ps[0]))).all()
    assert kept(filters.top_k(logits, ks[0])).sum() <= kept(filters.top_k(logits, ks[1])).sum()


@pytest.mark.parametrize(
    "apply",
    [
        lambda x, p: filters.temperature(x, p),
        lambda x, p: filters.top_p(x, p),
        lambda x, p: filters.min_p(x, p),
        lambda x, p: filters.typical_p(x, p),
        lambda x, p: filters.top_k(x, (p * 9).long()),
        lambda x, p: filters.top_k(x, (p * 9).long(), bound=9),
        lambda x, p: filters.presence_penalty(x, (x > 0).float(), p),
        lambda x, p: filters.frequency_penalty(x, (x > 0).float(), p),
        lambda x, p: filters.repetition_penalty(x, x > 0, p),
    ],
)
@given(logits=logit_batches(), data=st.data())
def test_each_row_has_its_own_parameter_and_ignores_its_neighbours(apply, logits: Tensor, data: st.DataObject):
    ps = torch.tensor(data.draw(st.lists(UNIT, min_size=len(logits), max_size=len(logits))))
    together = apply(logits, ps)
    alone = torch.cat([apply(logits[row : row + 1], ps[row : row + 1]) for row in range(len(logits))])
    assert torch.equal(together, alone)


@given(logit_batches())
def test_values_that_switch_a_filter_off_change_nothing(logits: Tensor):
    rows = len(logits)
    none = torch.zeros_like(logits)
    for out in (
        filters.temperature(logits, 1.0),
        filters.top_k(logits, 0),
        filters.top_k(logits, torch.zeros(rows, dtype=torch.int64)),
        filters.top_p(logits, 1.0),
        filters.top_p(logits, torch.ones(rows)),
        filters.min_p(logits, 0.0),
        filters.min_p(logits, torch.zeros(rows)),
        filters.typical_p(logits, 1.0),
        filters.repetition_penalty(logits, torch.ones_like(logits, dtype=torch.bool), 1.0),
        filters.presence_penalty(logits, none + 1, 0.0),
        filters.logit_bias(logits, none[0]),
        filters.allowed(logits, torch.ones_like(logits, dtype=torch.bool)),
    ):
        assert torch.equal(out, logits)


def test_temperature_zero_leaves_the_argmax_alone_also_in_a_mixed_batch():
    logits = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    out = filters.temperature(logits, torch.tensor([0.0, 2.0]))
    assert out.tolist() == [[-torch.inf, 3.0, -torch.inf], [0.5, 1.5, 1.0]]
    assert filters.temperature(logits, 0.0)[0].tolist() == [-torch.inf, 3.0, -torch.inf]


def test_penalties_on_known_numbers():
    logits = torch.tensor([[2.0, -2.0, 2.0, -torch.inf]])
    seen = torch.tensor([[True, True, False, True]])
    assert filters.repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -torch.inf]]
    counts = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
    assert filters.presence_penalty(logits, counts, 0.5).tolist() == [[2.0, -2.5, 1.5, -torch.inf]]
    assert filters.frequency_penalty(logits, counts, 0.5).tolist() == [[2.0, -2.5, 0.5, -torch.inf]]


def test_min_new_tokens_blocks_end_ids_of_short_rows_only():
    ends = torch.tensor([False, True, False])
    out = filters.min_new_tokens(torch.zeros(2, 3), torch.tensor([1, 2]), 2, ends)
    assert kept(out).tolist() == [[True, False, True], [True, True, True]]


def test_filters_leave_their_input_alone():
    logits = torch.randn(2, 6)
    before = logits.clone()
    filters.typical_p(filters.min_p(filters.top_p(filters.top_k(filters.temperature(logits, 0.5), 4), 0.9), 0.1), 0.9)
    assert torch.equal(logits, before)


def test_top_k_takes_the_lowest_ids_of_equal_logits_and_orders_negative_ones():
    logits = torch.tensor([[-1.0, 2.0, -torch.inf, 2.0, -0.5, 2.0]], dtype=torch.bfloat16)
    for k, kept in ((2, [1, 3]), (4, [1, 3, 4, 5]), (5, [0, 1, 3, 4, 5]), (60, [0, 1, 3, 4, 5])):
        assert filters.top_k(logits, k)[0].isfinite().nonzero().flatten().tolist() == kept
