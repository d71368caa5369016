"""Perplexity and divergence against their definitions, id by id, and the laws of the windows."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import kl_divergence, perplexity, score, token_nlls

VOCAB = 11
TEXT = torch.randint(0, VOCAB, (50,), generator=torch.Generator().manual_seed(5))


def by_hand(model: Callable[[Tensor], Tensor], text: list[int], window: int, stride: int, prefix: list[int]) -> Tensor:
    """Each id alone, behind what its first window shows of the text before it."""
    first, found = 0 if prefix else 1, dict[int, float]()
    for begin in range(first, len(text), stride):
        for place in range(begin, min(begin + window, len(text))):
            before = prefix + text[begin:place] if prefix else text[begin - 1 : place]
            logprobs = model(torch.tensor([before]))[0, -1].float().log_softmax(-1)
            found.setdefault(place, -logprobs[text[place]].item())
    assert sorted(found) == list(range(first, len(text)))  # each id once, none left out
    return torch.tensor([found[place] for place in sorted(found)])


@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=30),
    st.integers(1, 32),
    st.integers(1, 32),
    st.lists(st.integers(0, VOCAB - 1), max_size=2),
    st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_each_id_is_scored_once_behind_its_first_window(attention, text, window, stride, prefix, batch_size):
    stride = min(stride, window)
    options = {"window": window, "stride": stride, "prefix": prefix, "batch_size": batch_size}
    found = token_nlls(attention, text, **options)
    torch.testing.assert_close(found, by_hand(attention, text, window, stride, prefix))


@pytest.mark.parametrize("window", [1, 7, 16, 49])
def test_windows_that_do_not_overlap_are_texts_of_their_own(attention, window: int):
    found = token_nlls(attention, TEXT, window=window)
    parts = [
        token_nlls(attention, TEXT[begin - 1 : begin + window], window=window) for begin in range(1, len(TEXT), window)
    ]
    torch.testing.assert_close(found, torch.cat(parts))


def test_one_window_is_the_whole_text(attention):
    whole = token_nlls(attention, TEXT, window=50, prefix=[0])
    torch.testing.assert_close(-whole, score(attention, torch.tensor([[0]]), [TEXT]).token_logprobs[0])
    torch.testing.assert_close(token_nlls(attention, TEXT[None], window=1000, prefix=[0]), whole)
    assert not torch.allclose(token_nlls(attention, TEXT, window=5, prefix=[0]), whole)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 5))
@settings(deadline=None)
def test_a_model_that_looks_one_id_back_is_the_same_in_any_windows(window: int, stride: int, batch_size: int):
    logits = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(3))
    found = token_nlls(lambda ids: logits[ids], TEXT, window=window, stride=min(window, stride), batch_size=batch_size)
    expected = torch.nn.functional.cross_entropy(logits[TEXT[:-1]], TEXT[1:], reduction="none")
    torch.testing.assert_close(found, expected)


def test_no_row_is_longer_than_the_window_and_no_window_is_computed_twice(attention):
    shapes: list[tuple[int, ...]] = []

    def forward(ids: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        return attention(ids)

    told: list[int] = []
    token_nlls(forward, TEXT, window=16, stride=8, prefix=[0], batch_size=3, progress=told.append)
    assert shapes == [(3, 16), (2, 16), (1, 10)]
    assert sum(told) == 50


def test_the_softmax_is_that_of_float32_in_pieces(monkeypatch: pytest.MonkeyPatch, attention):
    options = {"window": 20, "stride": 9, "prefix": [4]}
    whole = token_nlls(attention, TEXT, **options)
    monkeypatch.setattr("llm_sampler.measuring.PIECE", 3 * VOCAB)
    torch.testing.assert_close(token_nlls(attention, TEXT, **options), whole)
    half = token_nlls(lambda ids: attention(ids).to(torch.bfloat16), TEXT, window=50)
    logits = attention(TEXT[None, :-1])[0].to(torch.bfloat16).float()
    torch.testing.assert_close(half, torch.nn.functional.cross_entropy(logits, TEXT[1:], reduction="none"))
    assert half.dtype == torch.float32


def test_perplexity_and_its_error_by_definition():
    """Two ids in turn, foretold with 1/2 and 1/8: the geometric mean of the probabilities is 1/4."""
    probs = torch.tensor([[0.5, 0.5], [0.125, 0.875]])
    found = perplexity(lambda ids: probs.log()[ids], [0, 1, 0, 1, 0], window=5, num_bytes=4)
    assert found.tokens == 4
    assert found.perplexity == pytest.approx(4)
    assert found.nll == pytest.approx(2 * math.log(2))
    spread = math.sqrt(4 / 3) * math.log(2)  # the ids cost 1, 3, 1 and 3 bits
    assert found.standard_error == pytest.approx(spread / 2)
    assert found.perplexity_error == pytest.approx(4 * spread / 2)
    assert found.bits_per_byte == pytest.approx(2)
    assert perplexity(lambda ids: probs.log()[ids], [0, 1], window=5).bits_per_byte is None


def test_one_id_has_no_error_and_an_impossible_one_an_infinite_perplexity():
    logits = torch.tensor([0.0, 0.0, -torch.inf])
    one = perplexity(lambda ids: logits.expand(*ids.shape, 3), [1], window=9, prefix=[2])
    assert (one.tokens, one.standard_error, one.perplexity) == (1, 0.0, pytest.approx(2))
    impossible = perplexity(lambda ids: logits.expand(*ids.shape, 3), [0, 1, 2], window=9)
    assert impossible.nll == impossible.perplexity == math.inf
    assert math.isnan(impossible.perplexity_error)


def test_a_model_does_not_diverge_from_itself(attention):
    found = kl_divergence(attention, attention, TEXT, window=16, stride=5, batch_size=2)
    assert (found.mean, found.max, found.standard_error, found.nll_change, found.nll_change_error) == (0, 0, 0, 0, 0)
    assert found.same_top == 1
    assert found.model == found.base == perplexity(attention, TEXT, window=16, stride=5, batch_size=2)


@given(st.integers(0, 1000), st.integers(2, 40))
@settings(max_examples=50, deadline=None)
def test_divergence_by_definition(seed: int, length: int):
    make = torch.Generator().manual_seed(seed)
    own, base = torch.randn(2, VOCAB, VOCAB, generator=make) * 3
    text = torch.randint(0, VOCAB, (length,), generator=make)
    found = kl_divergence(lambda ids: own[ids], lambda ids: base[ids], text, window=7, stride=3, num_bytes=90)
    p, q = base[text[:-1]].double().softmax(-1), own[text[:-1]].double().softmax(-1)
    kl = sorted((p * (p / q).log()).sum(-1).tolist())
    n = length - 1
    assert found.mean == pytest.approx(sum(kl) / n, abs=1e-5)
    assert found.max == pytest.approx(kl[-1], abs=1e-5)
    assert found.median == pytest.approx(kl[(n + 1) // 2 - 1], abs=1e-5)
    assert found.percentile_99 == pytest.approx(kl[math.ceil(0.99 * n) - 1], abs=1e-5)
    assert found.same_top == pytest.approx((p.argmax(-1) == q.argmax(-1)).double().mean().item())
    gathered = (p / q).log().gather(1, text[1:, None])
    assert found.nll_change == pytest.approx(gathered.mean().item(), abs=1e-5)
    assert found.model == perplexity(lambda ids: own[ids], text, window=7, stride=3, num_bytes=90)
    assert found.base == perplexity(lambda ids: base[ids], text, window=7, stride=3, num_bytes=90)


def test_the_change_of_the_loss_is_surer_than_the_losses(attention):
    """Both score the same ids: what is hard for one is hard for the other, and cancels."""
    noise = torch.randn(VOCAB, generator=torch.Generator().manual_seed(1)) / 50
    found = kl_divergence(lambda ids: attention(ids) + noise, attention, TEXT, window=50)
    assert found.nll_change == pytest.approx(found.model.nll - found.base.nll, abs=1e-7)
    assert 0 < found.nll_change_error < found.model.standard_error / 10


def test_what_the_base_rules_out_adds_nothing_and_what_the_model_rules_out_everything():
    some = torch.tensor([0.5, 0.5, 0.0]).log()
    other = torch.tensor([0.25, 0.25, 0.5]).log()
    own, base = (lambda ids: other.expand(*ids.shape, 3)), (lambda ids: some.expand(*ids.shape, 3))
    assert kl_divergence(own, base, [0, 1, 0], window=4).mean == pytest.approx(math.log(2))
    assert kl_divergence(base, own, [0, 1, 0], window=4).mean == math.inf
    assert kl_divergence(base, base, [0, 1, 0], window=4).mean == 0


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {"prefix": [0]}, "ids must hold an id and one before it, got 0"),
        ([3], {}, r"got 1; give a longer text, or prefix=\[bos_id\]"),
        ([1, -2], {}, "ids must not be negative, got -2"),
        ([1, 2.0], {}, "ids must be integers, got 2.0"),
        ([1, True], {}, "ids must be integers, got True"),
        (torch.ones(3), {}, "ids must be the integers of one text"),
        (torch.ones(2, 3, dtype=torch.int64), {}, r"one text \(T,\), got torch.int64 \(2, 3\)"),
        ([1, 2], {"window": 0}, "window must be an integer of at least 1"),
        ([1, 2], {"stride": 0}, "stride must be an integer of at least 1"),
        ([1, 2], {"stride": 9}, r"stride must be at most window \(8\)"),
        ([1, 2], {"batch_size": 0}, "batch_size"),
        ([1, 2], {"prefix": [-1]}, "prefix must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(ids, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        token_nlls(pytest.fail, ids, **{"window": 8, **options})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(table, bad: float):
    broken = table.clone()
    broken[6, 2] = bad
    with pytest.raises(ValueError, match="hold NaN or inf"):
        token_nlls(lambda ids: broken[ids], [1, 6, 3], window=8)
    with pytest.raises(ValueError, match="hold NaN or inf"):
        kl_divergence(lambda ids: table[ids], lambda ids: broken[ids], [1, 6, 3], window=8)


def test_logits_that_do_not_fit_are_refused(table):
    with pytest.raises(ValueError, match="at all 2 positions"):
        token_nlls(lambda ids: table[ids][:, -1:], [1, 2, 3], window=8)
    with pytest.raises(ValueError, match="below the 11 tokens of the logits, got 11"):
        token_nlls(lambda ids: table[ids], [1, 11], window=8)
    with pytest.raises(ValueError, match="logits for 11 ids and the base for 10"):
        kl_divergence(lambda ids: table[ids], lambda ids: table[ids][..., :10], [1, 2, 3], window=8)
    with pytest.raises(ValueError, match="num_bytes"):
        perplexity(lambda ids: table[ids], [1, 2, 3], window=8, num_bytes=0)
