"""The sampling loop over any callable from ids (B, T) to logits (B, T, V).

Shapes: B batch, T time (prompt and generated ids), V vocabulary, N generated ids.

Where the host waits for the device, apart from laying out the options before the first id: without end_ids and
stop_ids nowhere until the budgets, which the host knows, are spent. With them, one read of B small integers a step (has
the row ended, were its logits good); on an accelerator it is that of the step before, so the next one is always queued.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from .history import History
from .options import OptionValues, SamplingOptions, Settings
from .picking import pick as default_pick
from .picking import token_logprobs
from .prompts import last_logits, read_prompts
from .stopping import BAD, LENGTH, RUNNING, STOP, Stopping
from .watch import LateReader

ForwardFunc = Callable[[Tensor], Tensor]
Pick = Callable[..., tuple[Tensor, Tensor]]
_REASONS = {RUNNING: None, STOP: "stop", LENGTH: "length", BAD: "error"}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One id for each row. All tensors are on the device of the prompt."""

    ids: Tensor
    """(B,) int64; -1 for a row that ended before."""
    codes: Tensor
    """(B,) int64: 0 the row goes on, 1 it has ended by an end id or stop sequence, 2 by its budget."""
    logprobs: Tensor | None = None
    """(B,) of the ids under the model itself, before any filter; 0 for a row that ended before."""
    top_ids: Tensor | None = None
    """(B, n) the most probable ids, best first; -1 for a row that ended before."""
    top_logprobs: Tensor | None = None
    """(B, n) their log-probabilities; 0 for a row that ended before."""

    @property
    def finished(self) -> Tensor:
        """(B,) bool: the row gets no id after this one."""
        return self.codes != RUNNING

    def reasons(self) -> list[str | None]:
        """Why each row has ended, "stop" or "length", and None while it goes on. Waits for the device."""
        return [_REASONS[code] for code in self.codes.tolist()]


def sample(
    forward_func: ForwardFunc,
    input_ids: Tensor,
    max_new_tokens: int | Sequence[int] | Tensor,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    cached: bool = False,
    pad_id: int = 0,
    pick: Pick = default_pick,
    **options: Unpack[OptionValues],
) -> Iterator[Tensor]:
    """Yield ids (B,) int64 step by step, -1 for a row that has ended; the arguments are those of `steps`."""
    run = steps(
        forward_func,
        input_ids,
        max_new_tokens,
        lengths=lengths,
        cached=cached,
        pad_id=pad_id,
        pick=pick,
        **options,
    )
    return (step.ids for step in run)


def steps(
    forward_func: ForwardFunc,
    input_ids: Tensor,
    max_new_tokens: int | Sequence[int] | Tensor,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    cached: bool = False,
    pad_id: int = 0,
    pick: Pick = default_pick,
    **options: Unpack[OptionValues],
) -> Iterator[Step]:
    """Yield a `Step` for each new position until every row has ended. Gradients are off inside.

    forward_func: ids (B, T) -> logits (B, T, V), or (B, 1, V) for the last position of each row alone. Called with the
        whole sequence each time, or, with `cached`, first with the prompt and then with the new ids (B, 1) only.
    input_ids: (B, T) int64. Rows of unequal length are padded on the right; `lengths` (B,) then gives each row's own.
        New ids follow a row's own last id. With `cached`, forward_func has to place them there itself: rows that have
        ended are fed pad_id, and the cache has to hold T + max_new_tokens positions.
    max_new_tokens: the budget, one for all rows or one per row.
    pad_id: what forward_func sees at padding; any valid id.
    pick: replaces `llm_sampler.pick`, for instance with torch.compile(llm_sampler.pick, fullgraph=True).
    options: see `SamplingOptions`.

    Raises ValueError at once for bad arguments, and during the iteration for a row whose logits hold NaN or inf or
    leave no token; with an accelerator that may come a step late.
    """
    chosen = SamplingOptions(**options)
    prompt, real = read_prompts(input_ids, lengths, pad_id)
    batch = prompt.shape[0]
    chosen.check(batch)
    stopping = Stopping.of(
        batch,
        prompt.device,
        max_new_tokens=max_new_tokens,
        end_ids=chosen.end_ids,
        stop_ids=chosen.stop_ids,
        min_new_tokens=chosen.rows("min_new_tokens", batch),
    )
    run = _Run(options=chosen, stopping=stopping, cached=cached, pad_id=pad_id, pick=pick)
    return _loop(forward_func, prompt, real, run)


@dataclass(frozen=True, kw_only=True)
class _Run:
    options: SamplingOptions
    stopping: Stopping
    cached: bool
    pad_id: int
    pick: Pick


@torch.no_grad()
def _loop(forward_func: ForwardFunc, prompt: Tensor, lengths: Tensor, run: _Run) -> Iterator[Step]:
    stopping, reader = run.stopping, LateReader(prompt.device)
    codes, window = stopping.start()
    inputs, ends_at, step = prompt, lengths, torch.zeros_like(lengths)
    settings = history = None
    for _ in range(stopping.most):
        logits = last_logits(forward_func(inputs), inputs, ends_at)
        if settings is None or history is None:
            settings, history = _prepare(run, prompt, lengths, logits)
        ids, bad = run.pick(logits, settings, step=step, **history.arguments())
        running = codes == RUNNING
        if window is not None:
            window = torch.cat([window[:, 1:], ids.unsqueeze(1)], dim=1)
        codes = stopping.advance(codes, ids, bad, step, window)
        result = _result(logits, ids, running & ~bad, codes, run.options.logprobs)
        history.add(ids, result.ids)
        known = reader.exchange(codes) if stopping.early or not reader.is_late else None
        over = _all_ended(known)
        if over and reader.is_late:  # the rows ended a step ago, so this one is empty
            return
        yield result
        if over:
            return
        inputs, ends_at = _next_inputs(run, inputs, ends_at, ids, running)
        step = step + 1
    _all_ended(codes.tolist())


def _prepare(run: _Run, prompt: Tensor, lengths: Tensor, logits: Tensor) -> tuple[Settings, History]:
    batch, vocab = logits.shape
    top = run.options.logprobs
    if top is not None and top > vocab:
        raise ValueError(f"logprobs must be at most the {vocab} tokens of the logits, got {top}.")
    settings = run.options.settings(batch, vocab, logits.device, ends=run.stopping.ends)
    return settings, History(settings, run.options.allowed, prompt, lengths, vocab)


def _result(logits: Tensor, ids: Tensor, shown: Tensor, codes: Tensor, top: int | None) -> Step:
    visible = torch.where(shown, ids, -1)
    if top is None:
        return Step(ids=visible, codes=codes)
    logprobs, top_ids, top_logprobs = token_logprobs(logits, ids, top)
    return Step(
        ids=visible,
        codes=codes,
        logprobs=torch.where(shown, logprobs, 0.0),
        top_ids=torch.where(shown.unsqueeze(1), top_ids, -1),
        top_logprobs=torch.where(shown.unsqueeze(1), top_logprobs, 0.0),
    )


def _next_inputs(run: _Run, inputs: Tensor, ends_at: Tensor, ids: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
    """What forward_func gets next, and where each row of it ends: the new ids alone, or everything."""
    new = torch.where(running, ids, run.pad_id).unsqueeze(1)
    if run.cached:
        return new, torch.ones_like(ends_at)
    # Each new id goes right behind its row's last one; a row that has ended only gets more padding.
    wider = torch.cat([inputs, torch.full_like(new, run.pad_id)], dim=1)
    return wider.scatter_(1, ends_at.unsqueeze(1), new), ends_at + running


def _all_ended(codes: list[int] | None) -> bool:
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
