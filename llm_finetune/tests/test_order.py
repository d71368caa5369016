"""The order is a pure function of seed, epoch and place: every sample once an epoch, whoever trains it."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_finetune.order import Order, check_batch, permutation, plan_epoch

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=60)
OPTIONS = st.fixed_dictionaries(
    {"packing": st.booleans(), "group_by_length": st.booleans(), "max_seq_length": st.integers(20, 50)}
)


@settings(deadline=None)
@given(lengths=LENGTHS, options=OPTIONS, seed=st.integers(0, 99), rows=st.integers(1, 9), epochs=st.integers(1, 4))
def test_each_sample_once_an_epoch(lengths: list[int], options: dict, seed: int, rows: int, epochs: int) -> None:
    order = Order(lengths, seed=seed, rows_per_step=rows, epochs=epochs, **options)
    steps = [order.step(step) for step in range(order.steps or 0)]
    assert [len(step) for step in steps[:-1]] == [rows] * (len(steps) - 1)
    assert 1 <= len(steps[-1]) <= rows
    flat = [row for step in steps for row in step]
    assert [order.row(i) for i in range(len(flat))] == flat
    for epoch in range(epochs):
        own = flat[order.start(epoch) : order.start(epoch + 1)]
        assert sorted(sample for row in own for sample in row) == list(range(len(lengths)))
        assert {order.epoch_of(order.start(epoch)), order.epoch_of(order.start(epoch + 1) - 1)} == {epoch}
    if options["packing"]:
        assert max(sum(lengths[sample] for sample in row) for row in flat) <= options["max_seq_length"]
    else:
        assert {len(row) for row in flat} == {1}
    with pytest.raises(IndexError):
        order.step(len(steps))
    with pytest.raises(IndexError):
        order.row(len(flat))


@settings(deadline=None)
@given(lengths=LENGTHS, options=OPTIONS, world=st.integers(1, 4), share=st.integers(1, 4), rows=st.integers(1, 5))
def test_ranks_and_micro_batches_share_the_same_step(
    lengths: list[int], options: dict, world: int, share: int, rows: int
) -> None:
    order = Order(lengths, seed=1, rows_per_step=world * share, epochs=2, **options)
    for step in range(order.steps or 0):
        micros = order.micros(step, world=world, rows=rows)
        parts = [
            [order.micro(step, micro, rank=rank, world=world, rows=rows) for micro in range(micros)]
            for rank in range(world)
        ]
        taken = Counter(row for rank in parts for part in rank for row in part)
        assert taken == Counter(order.step(step))
        assert max(len(part) for rank in parts for part in rank) <= rows
        sizes = [sum(map(len, rank)) for rank in parts]
        assert max(sizes) - min(sizes) <= (0 if len(order.step(step)) == world * share else 1)


def test_resuming_needs_only_the_step() -> None:
    """Steps asked for out of order, by an object that has seen none before, are those of the run from the start."""
    lengths = [1 + i * 7 % 20 for i in range(3000)]
    options = {"seed": 3, "rows_per_step": 16, "packing": True, "group_by_length": True, "max_seq_length": 64}
    run = Order(lengths, **options)
    steps = {step: run.step(step) for step in range(200)}
    for step in (199, 3, 120, 0):
        assert Order(lengths, **options).step(step) == steps[step]
    assert run.steps is None
    assert run.epoch_of(199 * 16) >= 3


def test_the_same_in_another_process() -> None:
    code = "from llm_finetune.order import permutation; print(permutation(7, 2, 50).tolist())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(permutation(7, 2, 50).tolist())
    assert permutation(7, 2, 50).tolist() != permutation(7, 3, 50).tolist() != permutation(8, 2, 50).tolist()


def test_bins_are_well_filled() -> None:
    lengths = [1 + i * 37 % 100 for i in range(5000)]
    bins = plan_epoch(lengths, 0, 0, rows_per_step=4, packing=True, max_seq_length=256)
    filled = sum(lengths) / (256 * len(bins))
    assert filled > 0.97
    assert plan_epoch([9, 300, 9], 0, 0, rows_per_step=1, packing=True, max_seq_length=256).count((1,)) == 1


def test_steps_hold_like_lengths_and_come_in_random_order() -> None:
    lengths = [1 + i * 37 % 1000 for i in range(8000)]
    order = Order(lengths, seed=0, rows_per_step=8, epochs=2, group_by_length=True)
    spread = [[lengths[row[0]] for row in order.step(step)] for step in range(2000)]
    assert sum(max(step) - min(step) for step in spread) / 2000 < 40
    means = [sum(step) / 8 for step in spread[:64]]
    assert sorted(means) != means
    assert sorted(means, reverse=True) != means


def test_steps_across_epochs_hold_like_lengths_too() -> None:
    """Epochs of 1,001 rows begin within a step; groups of the next are cut where its steps begin."""
    lengths = [1 + i * 37 % 1000 for i in range(1001)]
    order = Order(lengths, seed=0, rows_per_step=8, epochs=4, group_by_length=True)
    inside = [step for step in range(400) if order.epoch_of(8 * step) == order.epoch_of(8 * step + 7)]
    spreads = [max(s) - min(s) for s in ([lengths[row[0]] for row in order.step(step)] for step in inside)]
    assert sorted(spreads)[len(spreads) * 9 // 10] < 60


def test_work_is_shared_evenly_when_grouped() -> None:
    lengths = list(range(1, 65))
    order = Order(lengths, seed=0, rows_per_step=64, epochs=1, group_by_length=True)
    work = [sum(lengths[i] for row in order.micro(0, 0, rank=rank, world=4, rows=64) for i in row) for rank in range(4)]
    assert max(work) == min(work)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="10 can't be shared by 4 devices; take 8 or 12"):
        check_batch(10, 4)
    with pytest.raises(ValueError, match="take 4"):
        Order([1] * 9, seed=0, rows_per_step=3).micro(0, 0, world=4)
    with pytest.raises(ValueError, match="no samples"):
        Order([], seed=0, rows_per_step=3)
    with pytest.raises(ValueError, match="at least one row"):
        Order([1], seed=0, rows_per_step=0)
    with pytest.raises(ValueError, match="packing needs max_seq_length"):
        plan_epoch([1], 0, 0, rows_per_step=1, packing=True)
