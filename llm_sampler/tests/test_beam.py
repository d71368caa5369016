"""Beam search against every possible continuation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import beam_search, sample

VOCAB = 4


def model(seed: int):
    """Logits that depend on the last two ids."""
    table = torch.randn(VOCAB, VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2

    def forward(ids: Tensor) -> Tensor:
        return table[torch.cat([ids[:, :1], ids[:, :-1]], dim=1), ids]

    return forward


def every_answer(forward, prompt: list[int], budget: int, ends: list[int]) -> dict[tuple[int, ...], float]:
    found = {}
    for ids in itertools.product(range(VOCAB), repeat=budget):
        stop = next((place + 1 for place, token in enumerate(ids) if token in ends), budget)
        answer = ids[:stop]
        logprobs = forward(torch.tensor([[*prompt, *answer]])).log_softmax(-1)[0]
        found[answer] = sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))
    return found


@given(
    seed=st.integers(0, 10_000),
    penalty=st.sampled_from([-0.5, 0.0, 0.7, 1.0, 2.0]),
    ends=st.sampled_from([[], [0], [1, 3]]),
    budget=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_with_enough_beams_the_result_is_exact(seed: int, penalty: float, ends: list[int], budget: int):
    forward = model(seed)
    expected = every_answer(forward, [1, 2], budget, ends)
    ranked = sorted(((total / len(ids) ** penalty, ids) for ids, total in expected.items()), reverse=True)[:3]
    found = beam_search(
        forward,
        torch.tensor([[1, 2]]),
        max_new_tokens=budget,
        beams=VOCAB**budget,
        returned=3,
        length_penalty=penalty,
        end_ids=ends,
    )
    assert [beam.ids for beam in found] == [ids for _, ids in ranked]
    for beam, (value, ids) in zip(found, ranked, strict=True):
        assert beam.score == pytest.approx(value, rel=1e-5)
        assert beam.logprob == pytest.approx(expected[ids], rel=1e-5)
        assert beam.finished == (ids[-1] in ends)


def test_one_beam_without_an_end_is_greedy(attention):
    prompt = torch.tensor([[1, 2, 3]])
    (beam,) = beam_search(attention, prompt[0], max_new_tokens=6, beams=1)
    assert list(beam.ids) == [ids.item() for ids in sample(attention, prompt, 6, temperature=0.0)]


def test_two_beams_find_what_greedy_misses():
    """The first id looks worse and leads to a certain second one."""
    probs = torch.tensor([[0.34, 0.33, 0.33], [0.0, 0.0, 1.0], [0.6, 0.4, 0.0]])
    (best,) = beam_search(lambda ids: probs.log()[ids], torch.tensor([2]), max_new_tokens=2, beams=2)
    assert best.ids == (1, 2)


def test_the_search_stops_as_soon_as_nothing_can_change():
    calls = 0

    def forward(ids: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        logits = torch.zeros(*ids.shape, 4)
        logits[..., 0] = 20.0
        return logits

    beam_search(forward, torch.tensor([1]), max_new_tokens=50, beams=3, length_penalty=0.0, end_ids=[0])
    assert calls == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams"),
        ({"returned": 5}, "returned must be at most"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"input_ids": torch.ones(2, 2, dtype=torch.int64)}, "one prompt"),
    ],
)
def test_wrong_arguments_are_refused(options: dict, message: str):
    arguments = {"input_ids": torch.tensor([1]), "max_new_tokens": 2, **options}
    with pytest.raises(ValueError, match=message):
        beam_search(pytest.fail, **arguments)


def test_bad_logits_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        beam_search(lambda ids: torch.full((1, 1, 3), torch.nan), torch.tensor([1]), max_new_tokens=2)


def test_an_end_id_is_an_id():
    """-1 was taken as an index from the end: the last token of the vocabulary ended beams."""
    with pytest.raises(ValueError, match=r"end_ids must hold ids .* got -1"):
        beam_search(model(0), torch.tensor([1]), max_new_tokens=2, end_ids=[-1])
