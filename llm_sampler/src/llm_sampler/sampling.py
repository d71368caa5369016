"""The sampling loop over any callable from ids (B, T) to logits (B, T, V).

Shapes: B batch, T time (prompt and generated ids), V vocabulary, N generated ids.

Where the host waits for the device, apart from laying out the options before the first id: without end_ids and
stop_ids nowhere until the budgets, which the host knows, are spent. With them, one read of B small integers a step (has
the row ended, were its logits good); on an accelerator it is that of the step before, so the next one is always queued.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Unpack

import torch
from torch import Tensor

from .choosing import Chooser, Pick, Rules, Step, all_ended
from .options import OptionValues, SamplingOptions
from .picking import pick as default_pick
from .prompts import last_logits, read_prompts
from .watch import LateReader

ForwardFunc = Callable[[Tensor], Tensor]


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
    rules = Rules.of(chosen, prompt, max_new_tokens, pick)
    return _loop(forward_func, prompt, real, rules, cached=cached, pad_id=pad_id)


@torch.no_grad()
def _loop(
    forward_func: ForwardFunc, prompt: Tensor, lengths: Tensor, rules: Rules, *, cached: bool, pad_id: int
) -> Iterator[Step]:
    stopping, reader = rules.stopping, LateReader(prompt.device)
    chooser = Chooser(rules, prompt, lengths)
    inputs, ends_at = prompt, lengths
    for _ in range(stopping.most):
        step = chooser.choose(last_logits(forward_func(inputs), inputs, ends_at))
        known = reader.exchange(step.codes) if stopping.early or not reader.is_late else None
        over = all_ended(known)
        if over and reader.is_late:  # the rows ended a step ago, so this one is empty
            return
        yield step
        if over:
            return
        if cached:
            inputs, ends_at = torch.where(step.ids < 0, pad_id, step.ids).unsqueeze(1), torch.ones_like(ends_at)
        else:
            inputs, ends_at = _longer(inputs, ends_at, step.ids, pad_id)
    all_ended(chooser.codes.tolist())


def _longer(inputs: Tensor, ends_at: Tensor, ids: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Everything so far with the new ids (B,), and where each row ends; one that has ended only gets more padding."""
    new = torch.where(ids < 0, pad_id, ids).unsqueeze(1)
    # Each new id goes right behind its row's last one.
    wider = torch.cat([inputs, torch.full_like(new, pad_id)], dim=1)
    return wider.scatter_(1, ends_at.unsqueeze(1), new), ends_at + (ids >= 0)
