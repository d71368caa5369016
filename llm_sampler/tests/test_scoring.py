"""Scores of given continuations against the definition, one id at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import choose, score

ANSWERS = [[4], [5, 6, 7], [1, 2], [3, 3, 3, 3]]
PROMPT = torch.tensor([[1, 2, 3]])


def by_hand(model, prompt: list[int], answer: list[int]) -> list[float]:
    found = []
    for place, token in enumerate(answer):
        logits = model(torch.tensor([prompt + answer[:place]]))[0, -1]
        found.append(logits.log_softmax(-1)[token].item())
    return found


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 50])
def test_token_logprobs_are_those_of_each_id_behind_its_prefix(attention, batch_size: int | None):
    scores = score(attention, PROMPT, ANSWERS, batch_size=batch_size)
    for row, answer in zip(scores.token_logprobs, ANSWERS, strict=True):
        expected = torch.tensor(by_hand(attention, [1, 2, 3], answer))
        torch.testing.assert_close(row[: len(answer)], expected)
        assert not row[len(answer) :].any()
    assert scores.lengths.tolist() == [1, 3, 2, 4]
    torch.testing.assert_close(scores.mean * scores.lengths, scores.sum)


def test_each_continuation_may_have_its_own_prompt(attention):
    prompts = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    scores = score(attention, prompts, [[7, 8], [9]], lengths=[4, 2])
    expected = [sum(by_hand(attention, [1, 2, 3, 4], [7, 8])), sum(by_hand(attention, [5, 6], [9]))]
    torch.testing.assert_close(scores.sum, torch.tensor(expected))


def test_normalised_scores_subtract_the_unconditional_ones(attention):
    scores = score(attention, PROMPT, ANSWERS, unconditional=[0], batch_size=3)
    expected = [sum(by_hand(attention, [1, 2, 3], a)) - sum(by_hand(attention, [0], a)) for a in ANSWERS]
    torch.testing.assert_close(scores.normalised, torch.tensor(expected))
    with pytest.raises(ValueError, match="unconditional=bos_ids"):
        _ = score(attention, PROMPT, ANSWERS).normalised


@given(st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=4), min_size=1, max_size=5))
@settings(max_examples=25)
def test_a_continuation_has_the_same_score_in_any_company(answers: list[list[int]]):
    table = torch.randn(11, 11, generator=torch.Generator().manual_seed(0))
    together = score(lambda ids: table[ids], PROMPT, answers).sum
    alone = torch.cat([score(lambda ids: table[ids], PROMPT, [answer]).sum for answer in answers])
    torch.testing.assert_close(together, alone)


def test_choose_by_sum_mean_and_what_the_prompt_adds():
    """Id 1 is likely anywhere, id 2 twice is likely per id, id 3 is likely only behind the prompt."""
    probs = torch.full((5, 5), 0.01)
    probs[0] = torch.tensor([0.02, 0.5, 0.03, 0.02, 0.43])  # unconditional
    probs[4] = torch.tensor([0.01, 0.4, 0.3, 0.25, 0.04])  # behind the prompt
    probs[2, 2] = 0.96

    def forward(ids: Tensor) -> Tensor:
        return probs.log()[ids]

    answers = [[1], [2, 2, 2], [3]]
    prompt = torch.tensor([4])
    assert choose(forward, prompt, answers) == 0
    assert choose(forward, prompt, answers, by="mean") == 1
    assert choose(forward, prompt, [answers[0], answers[2]], by="normalised", unconditional=[0]) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PROMPT, []), {}, "continuations must hold at least one"),
        ((PROMPT, [[1], []]), {}, "continuations must hold at least one id"),
        ((PROMPT, [[1, -2]]), {}, "continuations .* -2"),
        ((PROMPT, [[1]]), {"batch_size": 0}, "batch_size"),
        ((torch.zeros(2, 3, dtype=torch.int64), [[1]]), {}, "one per continuation"),
        ((PROMPT, [[1]]), {"lengths": [1, 2]}, "one integer per row"),
        ((PROMPT, [[1]]), {"unconditional": []}, "unconditional must hold at least one id"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        score(pytest.fail, *arguments, **options)


def test_choose_refuses_an_unknown_or_impossible_rule():
    with pytest.raises(ValueError, match="by must be"):
        choose(pytest.fail, PROMPT, ANSWERS, by="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="needs an unconditional prompt"):
        choose(pytest.fail, PROMPT, ANSWERS, by="normalised")


def test_bad_logits_and_missing_positions_are_named(table):
    broken = table.clone()
    broken[6] = torch.nan
    with pytest.raises(ValueError, match="continuation 1 hold NaN"):
        score(lambda ids: broken[ids], PROMPT, ANSWERS, batch_size=1)
    with pytest.raises(ValueError, match="at all 7 positions"):
        score(lambda ids: table[ids][:, -1:], PROMPT, ANSWERS)


@pytest.mark.parametrize("lengths", [[-1], [0], [4], [2.0]])
def test_lengths_of_prompts_are_checked(attention, lengths: list):
    """A length of -1 cut the last id off, and one past the width was taken for the width."""
    with pytest.raises(ValueError, match="lengths must be integers from 1 to 3"):
        score(attention, PROMPT, [[4]], lengths=lengths)


def test_an_id_past_the_vocabulary_is_a_value_error(attention):
    """It was the RuntimeError of an index out of bounds."""
    with pytest.raises(ValueError, match="continuations must be below the 11 tokens of the logits, got 11"):
        score(lambda ids: attention(ids.clamp(max=10)), PROMPT, [[4], [11]])


def test_a_continuation_that_is_impossible_in_any_case_is_not_chosen():
    """-inf minus -inf is NaN, and argmax takes NaN for the largest."""
    logits = torch.tensor([0.0, -torch.inf, 0.0])
    assert choose(lambda ids: logits.expand(*ids.shape, 3), PROMPT, [[1], [2]], by="normalised", unconditional=[0]) == 1
