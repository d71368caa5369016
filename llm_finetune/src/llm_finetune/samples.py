"""What the model that is being trained writes. Shapes: B = 1, T time, V vocabulary."""

import zlib
from collections.abc import Sequence
from typing import Any
"""Samples of a data set, held as three tensors instead of lists of numbers."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import torch

from llm_finetune.batches import Sample
from llm_finetune.evaluate import mode
from llm_finetune.feeding import Rows
from llm_finetune.settings import Settings
from llm_tokenizer import Tokenizer


def sample(model: Any, tokenizer: Tokenizer, rows: Rows, settings: Settings) -> tuple[str, str]:
    """The prompt of a row, and the text that the model continues it with, greedily, up to an end of turn.

    The row is one of the validation rows, or of the training rows where there are none, as `evaluate_example` says; its
    prompt is what comes before its first trained token. ValueError for a number beyond the rows.
    """
    ids = prompt_ids(_row(rows, settings))
    assert settings.eval.max_new_tokens is not None
    room = min(settings.eval.max_new_tokens, model.config.max_positions - len(ids))
    found = continue_greedily(model, ids, room, tokenizer.end_ids)
    return tokenizer.decode(ids, skip_special=False), tokenizer.decode(found)


def prompt_ids(row: Sample) -> list[int]:
    """The ids before the first trained token, at least one of them."""
    first = next((place for place, weight in enumerate(row.weights) if place and weight > 0), 1)
    return list(row.ids[:first])


@torch.no_grad()
def continue_greedily(model: Any, ids: Sequence[int], count: int, ends: Sequence[int] = ()) -> list[int]:
    """Up to `count` ids that the model finds likeliest after `ids`, one after the other; one of `ends` isn't given."""
    found: list[int] = []
    if count < 1:
        return found
    cache = model.new_cache(1, len(ids) + count)
    x = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with mode(model, training=False):
        while len(found) < count:
            x = model(x, cache, last_only=True)[:, -1].argmax(-1, keepdim=True)  # (1, 1)
            if int(x) in ends:
                break
            found.append(int(x))
    return found


def _row(rows: Rows, settings: Settings) -> Sample:
    known, which = rows.val or rows.train, settings.eval.evaluate_example
    if isinstance(which, int) and which >= len(known):
        raise ValueError(f"eval.evaluate_example is {which}, and there are {len(known)} rows; the first is 0")
    if which == "random":
        which = zlib.crc32(f"{settings.seed} example".encode()) % len(known)
    row = known[0 if which == "first" else which]
    return row[0] if isinstance(row, tuple) else row


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
