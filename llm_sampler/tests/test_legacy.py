"""The names of earlier releases: their meaning holds, their bugs don't."""

import pytest
import torch

import llm_sampler
from llm_sampler import legacy

PROMPT = torch.tensor([[1, 2, 3]])
ANSWERS = [torch.tensor([4, 5]), torch.tensor([[6]]), torch.tensor([5, 4, 3])]


@pytest.mark.parametrize("take", [llm_sampler.sample_huggingface, llm_sampler.sample_gpt_fast])
def test_temperature_zero_takes_the_best_id_of_every_row(take):
    """It used to sample at temperature 1, and sample_gpt_fast looked at the first row alone."""
    outputs = torch.zeros(40, 2, 6)
    outputs[torch.arange(40), 1, torch.arange(40) % 6] = 0.1
    ids = take(outputs, 0.0)
    assert ids.tolist() == [row % 6 for row in range(40)]
    assert ids.dtype == (torch.int64 if take is llm_sampler.sample_huggingface else torch.int32)


def test_top_k_and_temperature_reach_the_draw():
    outputs = torch.tensor([3.0, 2.0, 1.0, 0.0]).expand(300, 1, 4)
    ids = llm_sampler.sample_huggingface(outputs, 5.0, 2, generator=torch.Generator().manual_seed(1))
    assert set(ids.tolist()) == {0, 1}
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        llm_sampler.sample_gpt_fast(torch.tensor([[[0.0, 1.0]], [[torch.nan, 0.0]]]))


def test_the_old_sample_is_greedy_by_default(bigram):
    assert [ids.item() for ids in legacy.sample(bigram, PROMPT, 3)] == [4, 5, 6]
    assert [ids.item() for ids in llm_sampler.sample(bigram, PROMPT, 3, temperature=0.0)] == [4, 5, 6]


def test_batches_are_padded_on_the_right():
    batch = llm_sampler.create_batch_with_continuations(PROMPT, ANSWERS, 9)
    assert batch.tolist() == [[1, 2, 3, 4, 5, 9], [1, 2, 3, 6, 9, 9], [1, 2, 3, 5, 4, 3]]


def test_padding_has_no_score(attention):
    """The score of the padding id used to stand behind a short continuation's end."""
    scores = llm_sampler.score_batch(attention, PROMPT, ANSWERS, 9)
    assert scores.isnan().tolist() == [[False, False, True], [False, True, True], [False, False, False]]
    expected = llm_sampler.score(attention, PROMPT, ANSWERS)
    torch.testing.assert_close(scores.nansum(1), expected.sum)


def test_one_at_a_time_gives_the_same_scores_as_a_batch(attention):
    """The iterative form used to feed the continuation's last id in every place."""
    batch = llm_sampler.score_batch(attention, PROMPT, ANSWERS, 0)
    alone = llm_sampler.score_batch_iterative(attention, PROMPT, ANSWERS)
    assert [len(row) for row in alone] == [2, 1, 3]
    for together, row in zip(batch, alone, strict=True):
        torch.testing.assert_close(together[: len(row)], row)
    generator = llm_sampler.sample_multiple_choice(attention, PROMPT, ANSWERS)
    torch.testing.assert_close(next(generator), alone[0])


def test_best_continuation_goes_id_by_id():
    best = llm_sampler.best_continuation_naive
    scores = torch.tensor([[-1.0, -5.0], [-1.05, -2.0], [-3.0, -0.1]])
    assert best(scores, 0.1).shape == ()
    assert best(scores, 0.1) == 1
    assert best(scores, 0.0) == 0
    assert best(torch.tensor([[-1.0, torch.nan], [-1.0, -2.0]]), 0.1) == 0
    assert best(torch.tensor([[-2.0, torch.nan], [-1.0, -2.0]]), 0.1) == 1
