"""Which rows each step takes: a pure function of seed and step, so that a run goes on where it stopped."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from llm_finetune.batches import Sample
from llm_finetune.order import Order
from llm_finetune.settings import Settings

Item: TypeAlias = Sample | tuple[Sample, Sample]
"""A row: a sample, or two of which the first was preferred."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a run learns from, and what it is measured on; both can be read again and again by index.

    With `packing` a row of the batch is as many samples as `train.max_seq_length` places hold (without one, the places
    of the longest); with `group_by_length` the rows of a step are of like length.
    """

    train: Sequence[Item]
    val: Sequence[Item] = field(default_factory=tuple)
    packing: bool = False
    group_by_length: bool = False


class Feed:
    """The micro-batches of every step of a run. Rows follow each other from epoch to epoch; the last step may be short.

    `steps` is how many the run has by its settings, `max_time` aside. ValueError without rows, and for a sample that
    is longer than `context`, the positions of the model.
    """

    def __init__(self, rows: Rows, settings: Settings, *, context: int | None = None) -> None:
        if not len(rows.train):
            raise ValueError("there is no row to train on")
        _require_context(rows, settings, context)
        train = settings.train
        self._items, self._train = rows.train, train
        lengths = [places(cut(item, train.max_seq_length)) for item in rows.train]
        self.order = Order(
            lengths,
            seed=settings.seed,
            rows_per_step=train.global_batch_size,
            epochs=train.epochs,
            packing=rows.packing,
            group_by_length=rows.group_by_length,
            max_seq_length=train.max_seq_length or max(lengths),
        )
        self.total = self.order.start(train.epochs)
        steps = -(-self.total // train.global_batch_size)
        self.steps = min(steps, train.max_steps or steps)
        if train.max_tokens is not None:
            self.steps = self._steps_of_tokens(train.max_tokens)

    def step(self, step: int) -> list[list[Item]]:
        """The micro-batches of a step, which are the same rows however many of them are computed at a time."""
        rows = [[self._item(number) for number in row] for row in self.order.step(step)]
        size = self._train.micro_batch_size
        return [[item for row in rows[at : at + size] for item in row] for at in range(0, len(rows), size)]

    def epoch(self, step: int) -> float:
        """How many times the rows have been read before a step."""
        index = min(step * self._train.global_batch_size, self.total)
        if index == self.total:
            return float(self._train.epochs)
        epoch = self.order.epoch_of(index)
        start = self.order.start(epoch)
        return epoch + (index - start) / (self.order.start(epoch + 1) - start)

    def numbers(self, step: int) -> list[int]:
        """The samples of a step by their number in the data, from 0."""
        return [number for row in self.order.step(step) for number in row]

    def _item(self, number: int) -> Item:
        return cut(self._items[number], self._train.max_seq_length)

    def _steps_of_tokens(self, most: int) -> int:
        """The first number of steps that takes so many tokens, or all."""
        seen = 0
        for step in range(self.steps):
            seen += sum(self.order.lengths[number] for number in self.numbers(step))
            if seen >= most:
                return step + 1
        return self.steps


def cut(item: Item, length: int | None) -> Item:
    """The first tokens of a row, at most so many of each sample of it."""
    if isinstance(item, tuple):
        return _cut(item[0], length), _cut(item[1], length)
    return _cut(item, length)


def places(item: Item) -> int:
    """The positions that a row takes in a batch."""
    return sum(len(each.ids) - 1 for each in (item if isinstance(item, tuple) else (item,)))


def _require_context(rows: Rows, settings: Settings, context: int | None) -> None:
    if context is None:
        return
    for part, items in (("train", rows.train), ("val", rows.val)):
        for number, item in enumerate(items):
            for sample in item if isinstance(item, tuple) else (item,):
                length = min(len(sample.ids), settings.train.max_seq_length or len(sample.ids)) - 1
                if length > context:
                    raise ValueError(
                        f"{part} row {number} (from 0) takes {length} positions, and the model has {context}; give "
                        f"train.max_seq_length {context + 1} or less, or load_data(..., max_seq_length={context})"
                    )


def fingerprint(rows: Rows) -> str:
    """The sha256 of every id and weight, in order, by which a run that goes on knows its data again."""
    digest = hashlib.sha256()
    for part in (rows.train, rows.val):
        digest.update(struct.pack("<q", len(part)))
        for item in part:
            for sample in item if isinstance(item, tuple) else (item,):
                count = len(sample.ids)
                digest.update(struct.pack(f"<q{count}q{count}d", count, *sample.ids, *sample.weights))
    return digest.hexdigest()


def _cut(sample: Sample, length: int | None) -> Sample:
    if length is None or len(sample.ids) <= length:
        return sample
    return Sample(ids=sample.ids[:length], weights=sample.weights[:length])
