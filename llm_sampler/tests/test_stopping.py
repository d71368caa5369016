"""End ids, stop sequences and minimum lengths on a model that counts upwards modulo 11."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import steps

START = torch.tensor([[0], [3], [6]])


def count_up(ids: Tensor) -> Tensor:
    return torch.nn.functional.one_hot((ids + 1) % 11, 11).float()


def run(budget=8, **options) -> tuple[list[list[int]], list[str | None]]:
    taken = list(steps(count_up, START, budget, temperature=0.0, **options))
    ids = torch.stack([step.ids for step in taken], dim=1).tolist()
    for row in ids:  # nothing but -1 behind a row's end
        assert -1 not in row or set(row[row.index(-1) :]) == {-1}
    return [[i for i in row if i >= 0] for row in ids], taken[-1].reasons()


def test_the_end_id_is_the_last_one_shown_and_the_loop_stops_with_the_last_row():
    ids, reasons = run(end_ids=[2, 5, 8])
    assert ids == [[1, 2], [4, 5], [7, 8]]
    assert reasons == ["stop"] * 3


def test_end_ids_of_each_row():
    ids, reasons = run(4, end_ids=[[2], [], [7, 9]])
    assert ids == [[1, 2], [4, 5, 6, 7], [7]]
    assert reasons == ["stop", "length", "stop"]


def test_stop_sequences_for_all_rows():
    ids, reasons = run(6, stop_ids=[[3], [5, 6, 7], [9, 9]])
    assert ids == [[1, 2, 3], [4, 5, 6, 7], [7, 8, 9, 10, 0, 1]]
    assert reasons == ["stop", "stop", "length"]


def test_stop_sequences_of_each_row():
    ids, _ = run(5, stop_ids=[[], [[5], [4, 5, 6]], [[8, 9]]])
    assert ids == [[1, 2, 3, 4, 5], [4, 5], [7, 8, 9]]


def test_a_stop_sequence_does_not_count_ids_of_the_prompt():
    ids, _ = run(3, stop_ids=[[0, 1]])
    assert ids[0] == [1, 2, 3]


def test_min_new_tokens_holds_back_end_ids_and_stop_sequences():
    """Row 0 would count to its end id 1 at once: it has to take another id there, and may end later."""
    ids, _ = run(8, end_ids=[1], stop_ids=[[4]], min_new_tokens=[2, 3, 0])
    assert ids[0][0] != 1
    assert ids[1][:3] == [4, 5, 6]
    assert ids[2] == [7, 8, 9, 10, 0, 1]


def test_the_end_id_wins_over_the_budget_it_falls_on():
    _, reasons = run(2, end_ids=[2, 5])
    assert reasons == ["stop", "stop", "length"]


@given(
    st.lists(st.integers(0, 10), max_size=3),
    st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=3), max_size=3),
    st.integers(1, 9),
)
def test_rows_end_where_a_plain_reading_says(ends: list[int], stops: list[list[int]], budget: int):
    expected = []
    for start in START[:, 0].tolist():
        row: list[int] = []
        while len(row) < budget:
            row.append((start + 1 + len(row)) % 11)
            if row[-1] in ends or any(row[-len(stop) :] == stop for stop in stops):
                break
        expected.append(row)
    assert run(budget, end_ids=ends, stop_ids=stops)[0] == expected


def test_end_ids_beyond_the_vocabulary_never_match():
    """Tokenizers sometimes know more ids than a model has logits for."""
    ids, _ = run(2, end_ids=[50_000, 1], min_new_tokens=1)
    assert [len(row) for row in ids] == [2, 2, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"end_ids": [1, [2], [3]]},
        {"end_ids": 5},
        {"end_ids": [[1]]},
        {"end_ids": [-1]},
        {"end_ids": [True]},
        {"stop_ids": [[]]},
        {"stop_ids": [[1], []]},
        {"stop_ids": [1, 2]},
        {"stop_ids": [[1.5]]},
        {"stop_ids": [[[1]], [[2]]]},
        {"stop_ids": "abc"},
    ],
)
def test_wrong_rules_are_refused(options: dict):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"^{name} must"):
        steps(count_up, START, 3, **options)
