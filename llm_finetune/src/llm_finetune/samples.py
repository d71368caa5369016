"""Samples of a data set, held as three tensors instead of lists of numbers."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import torch

from llm_finetune.batches import Sample


class Samples(Sequence[Sample]):
    """Samples in order; `where[i]` is the file and line of the i-th.

    per_row is 2 for preferences: samples 2r and 2r + 1 are the chosen and the rejected answer of row r; else 1.
    Held are 8 bytes a token.
    """

    def __init__(self, samples: Iterable[tuple[str, Sample]], *, per_row: int = 1) -> None:
        ids, weights, ends, self.where = array("i"), array("f"), [0], []
        for where, sample in samples:
            ids.extend(sample.ids)
            weights.extend(sample.weights)
            ends.append(len(ids))
            self.where.append(where)
        self.per_row = per_row
        self._arrays = (ids, weights)
        self._ids = torch.frombuffer(ids, dtype=torch.int32) if ids else torch.empty(0, dtype=torch.int32)
        self._weights = torch.frombuffer(weights, dtype=torch.float32) if weights else torch.empty(0)
        self._ends = torch.tensor(ends)

    def __len__(self) -> int:
        return len(self.where)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} is not among {len(self)}")
        begin, end = self._ends[index % len(self) :][:2].tolist()
        return Sample(ids=self._ids[begin:end].tolist(), weights=self._weights[begin:end].tolist())

    def row(self, index: int) -> list[Sample]:
        """The samples of a row: one, or the chosen and the rejected."""
        return self[index * self.per_row : (index + 1) * self.per_row]

    @property
    def items(self) -> Sequence[Sample | tuple[Sample, Sample]]:
        """One for each row: a sample, or the chosen and the rejected one."""
        if self.per_row == 1:
            return self
        return [(self[place], self[place + 1]) for place in range(0, len(self), 2)]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self) // self.per_row

    @property
    def lengths(self) -> list[int]:
        """Places that each row takes in a batch: tokens less one of each of its samples."""
        places = self._ends.diff() - 1
        return places.view(-1, self.per_row).sum(1).tolist()

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return self._ids.numel()

    @property
    def trained_tokens(self) -> int:
        """Tokens with a weight; the first of a sample never counts."""
        first = self._weights[self._ends[:-1]]
        return int((self._weights > 0).sum() - (first > 0).sum())

    def fingerprint(self) -> str:
        """SHA-256 of all ids, weights and borders, in order."""
        found = hashlib.sha256(f"{len(self)} {self.per_row} {self._ends.tolist()} ".encode())
        for held in self._arrays:
            found.update(held)
        return found.hexdigest()
