"""The model as the sampler calls it: prompts once, then new ids behind them. Shapes: B batch, T time, V vocabulary."""

from typing import Any

import torch
from torch import Tensor

from llm_cli.adapters import recorded
from llm_cli.completion import Row
from llm_cli.pieces import dynamic_from
from llm_cli.reading import PromptCache, prefill, rounded, spread
from llm_cli.sharing import read_shared
from llm_sampler import Progress


class Feeder:
    """A model and the cache of one generation, whose rows are the prompts, each as often as it has samples.

    `limit` is how long a row may become; `fixed_length` the length of the cache where it doesn't follow from the rows.
    """

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        rows: list[Row],
        *,
        limit: int,
        fixed_length: int | None,
        cache: PromptCache | None,
    ) -> None:
        self._model, self._prompts, self._rows, self._cache = model, prompts, rows, cache
        self._limit, self._fixed_length = limit, fixed_length
        self._step = recorded(model)
        self.kv: Any = None
        self.texts: Progress | None = None
        """Prompts and answers as they are now; needed by `several` alone."""

    @property
    def _samples(self) -> int:
        return len(self._rows) // len(self._prompts)

    def one(self, ids: Tensor) -> Tensor:
        """The logits (B, 1, V) after the ids (B, T): the prompts first, then (B, 1) each."""
        if self.kv is None:
            return self._read_prompts()
        # A row that has ended goes on while there is room: rows that advance together are the fast case.
        counts = [min(1, self.kv.capacity - length) for length in self.kv.lengths]
        outgrown = {row: self._text(row) for row in self.kv.outgrown()}
        for row in outgrown:
            counts[row] = 0  # one that has ended stays there, and the others begin anew
        if any(outgrown.values()):
            new = [[i] * count for i, count in zip(ids[:, 0].tolist(), counts, strict=True)]
            logits = self._read_again(new, outgrown)
        else:
            logits = self._step(ids, self.kv, counts=None if all(counts) else counts, last_only=True)
        if self._cache is not None:
            self._cache.extend(ids[0].tolist())
        return logits

    def several(self, ids: Tensor, starts: list[int], counts: list[int]) -> Tensor:
        """The logits (B, T, V) of the first counts[b] ids (B, T), which stand at each row's positions from starts[b].

        The first call reads the prompts and gives (B, 1, V). Rows that outgrow their angles are read again.
        """
        if self.kv is None:
            return self._read_prompts()
        self.kv.lengths[:] = starts
        if self._cache is not None:
            self._cache.rewind(starts[0])
        outgrown = [row for row in self.kv.outgrown() if counts[row]]
        if outgrown:
            assert self.texts is not None
            assert ids.size(1) == 1, "rows that are read again have no proposals"
            texts: dict[int, list[int] | None] = {}
            texts |= {row: self.texts.ids[row, : self.texts.lengths[row]].tolist() for row in outgrown}
            new = [row[:count] for row, count in zip(ids.tolist(), counts, strict=True)]
            logits = self._read_again(new, texts)
        else:
            logits = self._step(ids, self.kv, counts=None if min(counts) == ids.size(1) else counts)
        if self._cache is not None:
            self._cache.extend(ids[0, : counts[0]].tolist())
        return logits

    def _text(self, index: int) -> list[int] | None:
        """What an outgrown row has become; None for one that has ended, so that nothing asks for its next position."""
        row = self._rows[index]
        return self._prompts[index // self._samples] + row.ids if row.finish_reason is None else None

    def _read_again(self, new: list[list[int]], texts: dict[int, list[int] | None]) -> Tensor:
        """One step in which the rows with a text, which holds their new id, begin anew with it (LongRoPE)."""
        rows = [[0] * length + ids for length, ids in zip(self.kv.lengths, new, strict=True)]
        for index, text in texts.items():
            if text is not None:
                rows[index] = text
                self.kv.lengths[index] = 0
        return prefill(self._model, self.kv, rows)

    def _read_prompts(self) -> Tensor:
        samples, prompts = self._samples, self._prompts
        length = max(row.prompt_tokens + row.budget for row in self._rows)
        length = self._fixed_length or rounded(length, self._limit)
        if self._cache is not None:
            self.kv, known, logits = self._cache.read(self._model, prompts[0], length)
            cached = [known]
        else:
            self.kv = self._model.new_cache(len(prompts), length)
            cached = read_shared(self._model, self.kv, prompts)
            logits = prefill(self._model, self.kv, prompts)
        for index, row in enumerate(self._rows):
            row.cached_tokens = cached[index // samples]
        if samples > 1:  # the prompt is read once, however many samples continue it
            self.kv, self._cache = spread(self._model, self.kv, samples, max(length, self.kv.capacity)), None
            logits = logits.repeat_interleave(samples, dim=0)
        return logits


def longest_round(kv: Any, config: Any, progress: Progress) -> list[int]:
    """How many proposals each row can have now without a forward that computes other than plain steps would.

    With LongRoPE a forward must not cross the trained length, at which all rows wait for one to be read again; dynamic
    angles depend on the length that a forward reaches, so beyond the trained length there are plain steps alone.
    """
    most, trained = progress.most, dynamic_from(config)
    long_from = kv.long_from
    if long_from is not None:
        rows = list(zip(progress.lengths, most, strict=True))
        if any(
            runs and length - 1 == long_from for length, runs in zip(progress.lengths, progress.running, strict=True)
        ):
            return [0] * len(most)
        most = [min(count, long_from - length) if length <= long_from else count for length, count in rows]
    if trained is not None:
        most = [max(0, min(n, trained - length)) for length, n in zip(progress.lengths, most, strict=True)]
    return most


def nothing(progress: Progress) -> tuple[Tensor, list[int]]:
    """No proposals."""
    return torch.empty_like(progress.ids[:, :0]), [0] * len(progress.lengths)
