"""Which rows each step takes: a pure function of seed and step, so that a run goes on where it stopped."""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from llm_finetune.batches import Sample
from llm_finetune.settings import Settings

Item: TypeAlias = Sample | tuple[Sample, Sample]
"""A row: a sample, or two of which the first was preferred."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a run learns from, and what it is measured on; both can be read again and again by index."""

    train: Sequence[Item]
    val: Sequence[Item] = field(default_factory=tuple)


def permutation(seed: int, epoch: int, size: int) -> Tensor:
    """The order (size,) of the rows of an epoch."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} order {epoch}".encode()))
    return torch.randperm(size, generator=generator)


class Feed:
    """The micro-batches of every step of a run. Rows follow each other from epoch to epoch; the last step may be short.

    `steps` is how many the run has by its settings, `max_time` aside. ValueError without rows.
    """

    def __init__(self, rows: Sequence[Item], settings: Settings) -> None:
        if not len(rows):
            raise ValueError("there is no row to train on")
        self._rows, self._train, self._seed = rows, settings.train, settings.seed
        self._orders: dict[int, Tensor] = {}
        self.total = settings.train.epochs * len(rows)
        steps = -(-self.total // settings.train.global_batch_size)
        self.steps = min(steps, settings.train.max_steps or steps)
        if settings.train.max_tokens is not None:
            self.steps = self._steps_of_tokens(settings.train.max_tokens)

    def step(self, step: int) -> list[list[Item]]:
        """The micro-batches of a step, which are the same rows however many of them are computed at a time."""
        rows = [self._row(index) for index in self._indices(step)]
        size = self._train.micro_batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def epoch(self, step: int) -> float:
        """How many times the rows have been read before a step."""
        return min(step * self._train.global_batch_size, self.total) / len(self._rows)

    def numbers(self, step: int) -> list[int]:
        """The rows of a step by their number in the data, from 0."""
        return [self._number(index) for index in self._indices(step)]

    def _indices(self, step: int) -> range:
        size = self._train.global_batch_size
        return range(step * size, min((step + 1) * size, self.total))

    def _number(self, index: int) -> int:
        epoch, place = divmod(index, len(self._rows))
        if epoch not in self._orders:
            self._orders.pop(epoch - 2, None)
            self._orders[epoch] = permutation(self._seed, epoch, len(self._rows))
        return int(self._orders[epoch][place])

    def _row(self, index: int) -> Item:
        return cut(self._rows[self._number(index)], self._train.max_seq_length)

    def _steps_of_tokens(self, most: int) -> int:
        """The first number of steps that takes so many tokens, or all."""
        seen = 0
        for step in range(self.steps):
            seen += sum(places(item) for micro in self.step(step) for item in micro)
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
