"""Which rows a step takes: each once an epoch, whatever the micro-batches, and the same in every process."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_finetune import Feed, Rows, Sample, Settings, Train, permutation
from llm_finetune.feeding import cut, fingerprint

ROWS = [Sample(ids=[n, n + 1, n + 2], weights=[0, 1, 1]) for n in range(11)]


def _feed(**train: Any) -> Feed:
    return Feed(Rows(train=ROWS), Settings(train=Train(**train)))


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 30))
def test_each_row_comes_once_an_epoch_whatever_the_batches(epochs: int, step: int, micro: int) -> None:
    feed = _feed(epochs=epochs, global_batch_size=step, micro_batch_size=micro)
    numbers = [number for each in range(feed.steps) for number in feed.numbers(each)]
    assert len(numbers) == epochs * len(ROWS)
    for epoch in range(epochs):
        assert sorted(numbers[epoch * len(ROWS) : (epoch + 1) * len(ROWS)]) == list(range(len(ROWS)))
    for each in range(feed.steps):
        batches = feed.step(each)
        assert [item for batch in batches for item in batch] == [ROWS[n] for n in feed.numbers(each)]
        assert all(0 < len(batch) <= micro for batch in batches)


def test_a_step_can_be_asked_for_in_any_order() -> None:
    feed, again = _feed(global_batch_size=4), _feed(global_batch_size=4)
    forward = [feed.numbers(step) for step in range(feed.steps)]
    assert [again.numbers(step) for step in reversed(range(feed.steps))] == forward[::-1]


def test_epochs_differ_and_another_process_has_the_same_order() -> None:
    orders = [permutation(3, epoch, 9).tolist() for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    script = "import llm_finetune as f; print([f.permutation(3, e, 9).tolist() for e in range(4)])"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert found.strip() == str(orders)


@pytest.mark.parametrize(
    ("limits", "steps"),
    [({}, 14), ({"max_steps": 5}, 5), ({"max_steps": 50}, 14), ({"max_tokens": 17}, 3), ({"max_tokens": 16}, 2)],
)
def test_whichever_limit_is_first_ends_the_run(limits: dict[str, int], steps: int) -> None:
    """Every row takes two positions, so a step of four takes eight."""
    assert _feed(epochs=5, global_batch_size=4, **limits).steps == steps


def test_long_rows_are_cut() -> None:
    assert cut(ROWS[0], 2) == Sample(ids=[0, 1], weights=[0, 1])
    assert cut((ROWS[0], ROWS[1]), 2) == (Sample(ids=[0, 1], weights=[0, 1]), Sample(ids=[1, 2], weights=[0, 1]))
    assert cut(ROWS[0], 3) is ROWS[0]


def test_any_change_of_the_data_changes_its_fingerprint() -> None:
    rows = Rows(train=ROWS[:4], val=ROWS[4:6])
    others = [
        Rows(train=ROWS[:5], val=ROWS[5:6]),
        Rows(train=ROWS[3::-1], val=ROWS[4:6]),
        Rows(train=[*ROWS[:3], Sample(ids=ROWS[3].ids, weights=[0, 1, 0.5])], val=ROWS[4:6]),
        Rows(train=ROWS[:4]),
    ]
    assert fingerprint(rows) == fingerprint(Rows(train=list(ROWS[:4]), val=ROWS[4:6]))
    assert len({fingerprint(each) for each in [rows, *others]}) == 5


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no row to train on"):
        Feed(Rows(train=[]), Settings())


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_packed_and_grouped_rows_are_the_same_samples(packing: bool, grouped: bool) -> None:
    samples = [Sample(ids=list(range(2 + n % 7)), weights=[1.0] * (2 + n % 7)) for n in range(40)]
    settings = Settings(train=Train(epochs=2, global_batch_size=3, micro_batch_size=2, max_seq_length=9))
    feed = Feed(Rows(train=samples, packing=packing, group_by_length=grouped), settings)
    numbers = [number for step in range(feed.steps) for number in feed.numbers(step)]
    assert sorted(numbers) == sorted([*range(40)] * 2)
    sizes = [sum(len(each.ids) - 1 for each in micro) for step in range(feed.steps) for micro in feed.step(step)]
    assert max(sizes) <= 2 * 9
    assert (feed.steps < 27) == packing  # more than one sample in a row
    assert feed.epoch(0) == 0
    assert feed.epoch(feed.steps) == 2
    assert [feed.epoch(step) for step in range(feed.steps)] == sorted(feed.epoch(step) for step in range(feed.steps))


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_row_beyond_the_models_context_is_refused(part: str) -> None:
    short, long = Sample(ids=[1] * 9, weights=[1.0] * 9), Sample(ids=[1] * 10, weights=[1.0] * 10)
    Feed(Rows(train=[short], val=[short]), Settings(), context=8)
    rows = Rows(train=[short, long] if part == "train" else [short], val=[short, long])
    with pytest.raises(ValueError, match=f"{part} row 1 .* takes 9 positions, and the model has 8; .*max_seq_length 9"):
        Feed(rows, Settings(), context=8)
    Feed(rows, Settings(train=Train(max_seq_length=9)), context=8)
