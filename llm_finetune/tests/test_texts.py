"""Texts at evaluation: whose prompt is continued, how far, and that training isn't disturbed."""

from typing import Any

import pytest
import torch

from llm_blocks import testing
from llm_finetune import Eval, Rows, Sample, Settings
from llm_finetune.texts import continue_greedily, prompt_ids, sample


class Letters:
    """A tokenizer whose ids are letters; the last id ends a text."""

    end_ids = (60,)

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return " ".join(map(str, ids))


ROWS = [Sample(ids=[n, n + 1, n + 2, n + 3], weights=[0, 0, 1, 1]) for n in range(5)]


def _sample(model: Any, rows: Rows, **evaluation: Any) -> tuple[str, str]:
    tokenizer: Any = Letters()
    return sample(model, tokenizer, rows, Settings(eval=Eval(**evaluation)))


def test_the_prompt_ends_where_training_begins() -> None:
    assert prompt_ids(ROWS[3]) == [3, 4]
    assert prompt_ids(Sample(ids=[1, 2, 3], weights=[1, 1, 1])) == [1]
    assert prompt_ids(Sample(ids=[1, 2, 3], weights=[0, 0, 0])) == [1]


def test_the_continuation_is_greedy_and_stops_before_an_end(make_model: Any) -> None:
    model = make_model()
    wanted = testing.greedy(model, [3, 4], 8)
    assert continue_greedily(model, [3, 4], 8) == wanted
    assert continue_greedily(model, [3, 4], 8, ends=[wanted[3]]) == wanted[: wanted.index(wanted[3])]
    assert continue_greedily(model, [3, 4], 0) == []


def test_the_modes_of_modules_and_random_numbers_stay_as_they_are(make_model: Any) -> None:
    model = make_model().train()
    before = torch.get_rng_state()
    continue_greedily(model, [3, 4], 3)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("which", "prompt"), [("first", "2 3"), (1, "3 4"), (2, "4 5")])
def test_a_validation_row_is_chosen(make_model: Any, which: Any, prompt: str) -> None:
    rows = Rows(train=ROWS[:2], val=ROWS[2:])
    assert _sample(make_model(), rows, evaluate_example=which)[0] == prompt


def test_without_validation_rows_one_of_training_serves_and_pairs_give_the_preferred(make_model: Any) -> None:
    pairs = [(each, ROWS[0]) for each in ROWS[1:]]
    assert _sample(make_model(), Rows(train=pairs))[0] == "1 2"
    found = {_sample(make_model(), Rows(train=pairs), evaluate_example="random") for _ in range(3)}
    assert len(found) == 1


def test_a_text_stays_within_the_models_positions(make_model: Any) -> None:
    model = make_model(max_positions=6)
    assert len(_sample(model, Rows(train=ROWS), max_new_tokens=50)[1].split()) <= 4


def test_a_row_that_is_not_there_is_refused(make_model: Any) -> None:
    with pytest.raises(ValueError, match="evaluate_example is 5, and there are 5 rows"):
        _sample(make_model(), Rows(train=ROWS), evaluate_example=5)
