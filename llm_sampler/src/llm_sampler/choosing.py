"""What every loop does with the logits of a position: choose ids, note them, and say which rows have ended.

Shapes: B batch, T time (the prompt), V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .history import History
from .options import SamplingOptions, Settings
from .picking import token_logprobs
from .stopping import BAD, LENGTH, RUNNING, STOP, Stopping

Pick = Callable[..., tuple[Tensor, Tensor]]
_REASONS = {RUNNING: None, STOP: "stop", LENGTH: "length", BAD: "error"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One id for each row. All tensors are on the device of the prompt."""

    ids: Tensor
    """(B,) int64; -1 for a row that ended before, and in `speculative_steps` also for one that waits for others."""
    codes: Tensor
    """(B,) int64: 0 the row goes on, 1 it has ended by an end id or stop sequence, 2 by its budget."""
    logprobs: Tensor | None = None
    """(B,) of the ids under the model itself, before any filter; 0 where there is no id."""
    top_ids: Tensor | None = None
    """(B, n) the most probable ids, best first; -1 where there is no id."""
    top_logprobs: Tensor | None = None
    """(B, n) their log-probabilities; 0 where there is no id."""

    @property
    def finished(self) -> Tensor:
        """(B,) bool: the row gets no id after this one."""
        return self.codes != RUNNING

    def reasons(self) -> list[str | None]:
        """Why each row has ended, "stop" or "length", and None while it goes on. Waits for the device."""
        return [_REASONS[code] for code in self.codes.tolist()]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How ids are chosen and when rows end, checked."""

    options: SamplingOptions
    stopping: Stopping
    pick: Pick

    @staticmethod
    def of(options: SamplingOptions, prompt: Tensor, max_new_tokens: object, pick: Pick) -> "Rules":
        """The rules for a batch of prompts (B, T); raises ValueError."""
        batch = prompt.shape[0]
        options.check(batch)
        stopping = Stopping.of(
            batch,
            prompt.device,
            max_new_tokens=max_new_tokens,
            end_ids=options.end_ids,
            stop_ids=options.stop_ids,
            min_new_tokens=options.rows("min_new_tokens", batch),
        )
        return Rules(options=options, stopping=stopping, pick=pick)


class Chooser:
    """Chooses the next id of each row and knows what that depends on: options, noise, the ids so far.

    Any loop that hands a row the logits of its positions one after the other gets the same ids.
    """

    def __init__(self, rules: Rules, prompt: Tensor, lengths: Tensor) -> None:
        self._rules, self._prompt, self._lengths = rules, prompt, lengths
        self.codes, self._window = rules.stopping.start()
        self._step = torch.zeros_like(lengths)
        self._settings: Settings | None = None
        self._history: History | None = None

    def choose(self, logits: Tensor, live: Tensor | None = None) -> Step:
        """Choose from logits (B, V) for the rows that are `live` (B,), by default all that have not ended."""
        settings, history = self._prepare(logits)
        ids, bad = self._rules.pick(logits, settings, step=self._step, **history.arguments(live))
        chosen = self.codes == RUNNING if live is None else live
        if self._window is not None:
            newer = torch.cat([self._window[:, 1:], ids.unsqueeze(1)], dim=1)
            self._window = newer if live is None else torch.where(live.unsqueeze(1), newer, self._window)
        codes = self._rules.stopping.advance(self.codes, ids, bad, self._step, self._window)
        self.codes = codes if live is None else torch.where(live, codes, self.codes)
        result = self._result(logits, ids, chosen & ~bad)
        history.add(result.ids, live)
        self._step = self._step + 1 if live is None else self._step + live
        return result

    def drafter(self, live: Tensor) -> Callable[[Tensor], Tensor]:
        """A function from logits (B, V) to ids (B,): what `choose` would choose from them, call after call.

        It has the same options and the same noise, and notes its ids for itself alone.
        """
        assert self._settings is not None
        assert self._history is not None
        history, step = self._history.copy(), self._step

        def draft(logits: Tensor) -> Tensor:
            nonlocal step
            ids, _ = self._rules.pick(logits, self._settings, step=step, **history.arguments(live))
            history.add(ids, live)
            step = step + 1
            return ids

        return draft

    def _prepare(self, logits: Tensor) -> tuple[Settings, History]:
        if self._settings is None or self._history is None:
            (batch, vocab), options = logits.shape, self._rules.options
            if options.logprobs is not None and options.logprobs > vocab:
                raise ValueError(f"logprobs must be at most the {vocab} tokens of the logits, got {options.logprobs}.")
            self._settings = options.settings(batch, vocab, logits.device, ends=self._rules.stopping.ends)
            self._history = History(self._settings, options.allowed, self._prompt, self._lengths, vocab)
        return self._settings, self._history

    def _result(self, logits: Tensor, ids: Tensor, shown: Tensor) -> Step:
        visible, top = torch.where(shown, ids, -1), self._rules.options.logprobs
        if top is None:
            return Step(ids=visible, codes=self.codes)
        logprobs, top_ids, top_logprobs = token_logprobs(logits, ids, top)
        return Step(
            ids=visible,
            codes=self.codes,
            logprobs=torch.where(shown, logprobs, 0.0),
            top_ids=torch.where(shown.unsqueeze(1), top_ids, -1),
            top_logprobs=torch.where(shown.unsqueeze(1), top_logprobs, 0.0),
        )


def all_ended(codes: list[int] | None) -> bool:
    """Whether no row goes on; raises ValueError for rows whose logits were no distribution."""
    if codes is None:
        return False
    bad = [str(row) for row, code in enumerate(codes) if code == BAD]
    if bad:
        raise ValueError(
            f"The logits of row {', '.join(bad)} hold NaN or inf, or leave no token (all are -inf); "
            "check the model's output and dtype, the allowed mask and logit_bias."
        )
    return RUNNING not in codes
