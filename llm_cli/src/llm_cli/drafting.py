"""Who proposes ids in speculative decoding: the row's own text, a draft model, or the model's own first layers.

Shapes: B batch, T time, K proposals of a round, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import llm_blocks
import llm_sampler
from llm_cli.feeding import Feeder, longest_round, nothing
from llm_cli.options import Options
from llm_cli.reading import PromptCache, prefill
from llm_cli.sharing import read_shared
from llm_sampler import Progress

Proposals = tuple[Tensor, list[int]]
Propose = Callable[[Progress], Proposals]


def proposer(options: Options, feeder: Feeder, model: Any, draft: Any, *, cache: PromptCache | None) -> Propose | None:
    """The proposer that the options ask for, None where they ask for none; `draft` is the draft model or None.

    Raises ValueError for a draft model that is missing, and for layers that the model doesn't have.
    """
    how = options.speculative or ("off" if draft is None else "draft")
    if how == "off":
        return None
    if how == "draft" and draft is None:
        raise ValueError("speculative='draft' needs a draft model; name one as draft_model when loading")
    if how == "ngram":
        return _limited(lookup, feeder, model)
    if how == "self":
        draft = llm_blocks.first_layers(model, options.speculative_layers or max(1, len(model.mid) // 4))
    own = how == "self"
    # what an exact cache gives must not depend on what is known of a draft, whose proposals decide on the passes
    reader = None if cache is None or own or cache.exact else cache.draft
    return _limited(DraftModel(draft, model.config.vocab_size, feeder, own=own, cache=reader), feeder, model)


def _limited(propose: Propose, feeder: Feeder, model: Any) -> Propose:
    """The same proposer, which the feeder lets see no more than a forward of the model can check now."""

    def limited(progress: Progress) -> Proposals:
        feeder.texts = progress
        return propose(replace(progress, most=longest_round(feeder.kv, model.config, progress)))

    return limited


def lookup(progress: Progress) -> Proposals:
    """What followed the last occurrence of a row's last ids in its own text (prompt lookup)."""
    if not any(progress.most):
        return nothing(progress)
    lengths = torch.tensor(progress.lengths, device=progress.ids.device)
    ids, counts = llm_sampler.propose_by_lookup(progress.ids, max(progress.most), lengths=lengths)
    return ids, [min(count, most) for count, most in zip(counts.tolist(), progress.most, strict=True)]


class DraftModel:
    """A smaller model that goes before: it draws each proposal from its own logits, by the noise of the sampling.

    Its cache follows the rows: what was refused is rolled back, and what it lacks is read when it has to propose.
    `own` says that it is a beginning of the model itself, whose keys and values it takes over at first.
    """

    def __init__(self, model: Any, vocab_size: int, feeder: Feeder, *, own: bool, cache: PromptCache | None) -> None:
        self._model, self._vocab_size, self._feeder = model, vocab_size, feeder
        self._own, self._cache = own, cache
        self._step = llm_blocks.Recorded(model)
        self._kv: Any = None

    @torch.inference_mode()
    def __call__(self, progress: Progress) -> Proposals:
        if self._kv is not None:  # all but a row's last id were checked by the model: what goes beyond was refused
            self._kv.lengths[:] = [
                min(held, length - 1) for held, length in zip(self._kv.lengths, progress.lengths, strict=True)
            ]
        if not any(progress.most):
            return nothing(progress)
        if self._kv is None:
            self._kv = self._new_cache(progress)
        counts = [min(most, self._room(n)) for n, most in zip(progress.lengths, progress.most, strict=True)]
        if max(counts) < 1:
            return nothing(progress)
        counts = [max(0, count) for count in counts]
        choose, logits, proposals = progress.drafter(), self._catch_up(progress, counts), []
        for place in range(max(counts)):
            if place:
                going = [int(place < count) for count in counts]
                logits = self._step(proposals[-1].unsqueeze(1), self._kv, counts=going, last_only=True)
            proposals.append(choose(self._like_target(logits[:, -1])))
        ids = torch.stack(proposals, dim=1)  # (B, K)
        return ids, counts

    def _new_cache(self, progress: Progress) -> Any:
        limit = self._model.config.max_positions
        capacity = self._feeder.kv.capacity if self._own else min(self._feeder.kv.capacity, limit)
        if self._cache is not None and progress.lengths[0] <= capacity:
            text = progress.ids[0, : progress.lengths[0]].tolist()
            return self._cache.prepare(self._model, text, capacity)
        kv = self._model.new_cache(len(progress.lengths), capacity)
        if self._own:
            kv.copy_from(self._feeder.kv)
            kv.lengths[:] = [min(held, n - 1) for held, n in zip(kv.lengths, progress.lengths, strict=True)]
        elif max(progress.lengths) <= capacity:
            read_shared(self._model, kv, self._texts(progress))
        return kv

    def _texts(self, progress: Progress) -> list[list[int]]:
        """The rows as they are now, in ids that the draft knows."""
        known = progress.ids.clamp(max=self._model.config.vocab_size - 1).tolist()
        return [ids[:length] for ids, length in zip(known, progress.lengths, strict=True)]

    def _room(self, length: int) -> int:
        """How many proposals the draft's own cache has room for behind so many ids, all of them read in one way."""
        limits = [self._kv.capacity]
        if self._kv.long_from is not None and length <= self._kv.long_from:
            limits.append(self._kv.long_from)
        return min(limits) - length + 1  # the last proposal is not read

    def _catch_up(self, progress: Progress, counts: list[int]) -> Tensor:
        """Read what the draft lacks of the rows that propose; the logits (B, 1, V) after their last ids."""
        kv = self._kv
        for row, length in enumerate(progress.lengths):
            if counts[row] and not kv.holds(row, kv.lengths[row], aim=length):
                kv.lengths[row] = 0  # its windows have forgotten, or the text has other angles now (LongRoPE)
        low = min(kv.lengths)
        tails = progress.ids[:, low:].clamp(max=self._model.config.vocab_size - 1).tolist()
        rows = [[0] * held for held in kv.lengths]
        for row, (held, length) in enumerate(zip(kv.lengths, progress.lengths, strict=True)):
            if counts[row]:
                rows[row] += tails[row][held - low : length - low]
        logits = prefill(self._step, kv, rows)
        if self._cache is not None:  # what was proposed since then and kept is noted with the rest
            self._cache.extend(progress.ids[0, self._cache.known : progress.lengths[0]].tolist())
        return logits

    def _like_target(self, logits: Tensor) -> Tensor:
        """Logits (B, V) of the model's own vocabulary, where either has rows of padding more than the other."""
        missing = self._vocab_size - logits.size(1)
        return torch.nn.functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits
