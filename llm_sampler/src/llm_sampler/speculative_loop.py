"""Speculative decoding: a loop that checks several proposed ids with one call of the model.

Shapes: B batch, T time, K proposals of a round, V vocabulary.

The model reads the last id of each row and its proposals at once. Its logits are then sampled as `steps` would sample
them, position by position, and a row goes on to its next position while the id chosen is the one proposed. What is
chosen never depends on the proposals, so the ids are those of plain sampling with the same options and seeds, and
have its distribution, whatever is proposed. (Both up to rounding: many numeric kernels round differently for other
shapes of a batch.) For proposals that were not drawn a match has probability p(x), as in speculative sampling
(Leviathan et al. 2023, arXiv 2211.17192). A draft model that draws with the same Gumbel noise (`Progress.drafter`)
agrees with probability at least (1 - d) / (1 + d), d the total variation distance of the two distributions
(Daliri, Musco and Suresh 2024, arXiv 2408.07978).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from .choosing import Chooser, Pick, Rules, Step, all_ended
from .options import OptionValues, SamplingOptions
from .picking import pick as default_pick
from .prompts import check_logits, last_logits, read_prompts
from .speculative_pace import Pace, SpeculativeReport
from .stopping import RUNNING

_ROOM = 256  # columns by which the ids grow


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a proposer is told before each round."""

    ids: Tensor
    """(B, T) int64: prompts and answers so far, padded on the right."""
    lengths: list[int]
    """How many ids each row has. All but those of the last round have been here before; they never change."""
    most: list[int]
    """How many proposals each row can use now: 0 for one that has ended, and for all of them in a plain step."""
    running: list[bool]
    """Which rows have not ended: those that get an id in this round."""
    chooser: Chooser

    def drafter(self) -> Callable[[Tensor], Tensor]:
        """A function from a draft's logits (B, V) to ids (B,), to be called for one position after the other.

        It chooses by the options and the noise of the sampling itself, so a draft that resembles the model agrees.
        """
        return self.chooser.drafter(torch.tensor(self.most, device=self.ids.device) > 0)


ForwardAt = Callable[[Tensor, list[int], list[int]], Tensor]
Propose = Callable[[Progress], tuple[Tensor, Sequence[int] | Tensor]]


def speculative_steps(
    forward_func: ForwardAt,
    propose: Propose,
    input_ids: Tensor,
    max_new_tokens: int | Sequence[int] | Tensor,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    pad_id: int = 0,
    pick: Pick = default_pick,
    pace: Pace | None = None,
    report: SpeculativeReport | None = None,
    **options: Unpack[OptionValues],
) -> Iterator[Step]:
    """Yield the ids that `steps` yields for each row, from fewer calls of the model; the arguments are those of it.

    forward_func: called with (ids (B, T), starts, counts), gives logits (B, T, V). The first counts[b] ids of row b
        stand at its positions from starts[b] on, the rest is padding; what a cache holds of the row from starts[b] on
        is to be forgotten first. A row that has ended has count 0. For the prompts, the first call, logits (B, 1, V)
        after each row's last id are enough.
    propose: called before each round but the first, gives ids (B, K) and how many of them each row proposes (B,),
        from 0 to K. Too many are cut.
    pace: how many ids to ask for, by default `Pace()`; report: is told what came of it.

    A `Step` has -1 also for a row that waits while others, whose proposals were better, get ids: its code is 0 then.
    The host waits once a round for the device, and for the counts if they are a tensor.
    """
    chosen = SamplingOptions(**options)
    prompt, real = read_prompts(input_ids, lengths, pad_id)
    rules = Rules.of(chosen, prompt, max_new_tokens, pick)
    state = _State(rules, prompt, real)
    return _loop(forward_func, propose, state, pace or Pace(), report or SpeculativeReport())


class _State:
    """The ids of a batch on the device, and on the host how long its rows are and which of them go on."""

    def __init__(self, rules: Rules, prompt: Tensor, lengths: Tensor) -> None:
        self.chooser = Chooser(rules, prompt, lengths)
        self._ids = prompt
        self.lengths: list[int] = lengths.tolist()
        self._limits = [n + b for n, b in zip(self.lengths, rules.stopping.budgets.tolist(), strict=True)]
        self.codes: list[int] = self.chooser.codes.tolist()

    @property
    def ids(self) -> Tensor:
        """(B, T), as long as the longest row."""
        return self._ids[:, : max(self.lengths)]

    @property
    def running(self) -> list[bool]:
        return [code == RUNNING for code in self.codes]

    def last(self) -> Tensor:
        """The last id of each row (B, 1)."""
        return self._ids.gather(1, torch.tensor(self.lengths, device=self._ids.device).unsqueeze(1) - 1)

    def most(self, wanted: int) -> list[int]:
        """How many proposals each row can use: its last id always is one of the model's own."""
        rows = zip(self.lengths, self._limits, self.running, strict=True)
        return [min(wanted, limit - n - 1) if runs else 0 for n, limit, runs in rows]

    def take(self, steps: list[Step], accepted: Tensor) -> tuple[list[int], list[int]]:
        """Note the ids of a round's steps; how many each row got, and how many of its proposals they are.

        Raises ValueError for rows whose logits were no distribution.
        """
        new = torch.stack([step.ids for step in steps], dim=1)  # (B, K + 1)
        counts, self.codes, kept = torch.stack([(new >= 0).sum(dim=1), steps[-1].codes, accepted]).tolist()
        all_ended(self.codes)
        width = self._ids.shape[1]
        if max(self.lengths) + new.shape[1] > width:
            self._ids = torch.nn.functional.pad(self._ids, (0, new.shape[1] + _ROOM))
        places = torch.arange(new.shape[1], device=new.device)
        places = places + torch.tensor(self.lengths, device=new.device).unsqueeze(1)
        self._ids.scatter_(1, places, torch.where(new >= 0, new, self._ids.gather(1, places)))
        self.lengths = [n + count for n, count in zip(self.lengths, counts, strict=True)]
        return counts, kept


@torch.no_grad()
def _loop(
    forward_func: ForwardAt, propose: Propose, state: _State, pace: Pace, report: SpeculativeReport
) -> Iterator[Step]:
    if not any(state.running):
        return
    prompt = state.ids
    logits = forward_func(prompt, [0] * len(state.lengths), list(state.lengths))
    first = state.chooser.choose(last_logits(logits, prompt, torch.tensor(state.lengths)))
    state.take([first], torch.zeros_like(first.codes))
    yield first
    while any(state.running):
        began = time.perf_counter()
        proposals, counts = _ask(propose, state, pace.next())
        steps, accepted = _check(forward_func, proposals, counts, state)
        got, kept = state.take(steps, accepted)
        tested = sum(min(count, n) for count, n in zip(counts, got, strict=True))
        pace.note(tested, sum(kept))
        report.add(proposed=counts, accepted=kept, new_ids=got, seconds=time.perf_counter() - began)
        yield from steps[: max(got)]


def _ask(propose: Propose, state: _State, wanted: int) -> tuple[Tensor, list[int]]:
    """Proposals (B, K), as wide as they are used, and how many each row has."""
    progress = Progress(
        ids=state.ids,
        lengths=list(state.lengths),
        most=state.most(wanted),
        running=state.running,
        chooser=state.chooser,
    )
    ids, counts = propose(progress)
    counts = counts.tolist() if isinstance(counts, Tensor) else list(counts)
    batch = len(state.lengths)
    if ids.dim() != 2 or ids.shape[0] != batch or len(counts) != batch or max(counts) > ids.shape[1]:
        raise ValueError(
            f"propose must return ids ({batch}, K) and for each row how many of them it proposes, "
            f"got ids {tuple(ids.shape)} and {counts}."
        )
    counts = [max(0, min(count, most)) for count, most in zip(counts, progress.most, strict=True)]
    return ids[:, : max(counts)].to(state.ids), counts


def _check(forward_func: ForwardAt, proposals: Tensor, counts: list[int], state: _State) -> tuple[list[Step], Tensor]:
    """The steps of a round, and how many proposals of each row were kept (B,)."""
    inputs = torch.cat([state.last(), proposals], dim=1)  # (B, K + 1)
    real = [int(on) * (1 + count) for on, count in zip(state.running, counts, strict=True)]
    logits = check_logits(forward_func(inputs, [n - 1 for n in state.lengths], real), inputs).to(inputs.device)
    if logits.shape[1] != inputs.shape[1]:
        raise ValueError(
            f"forward_func must return the logits of all {inputs.shape[1]} positions behind the prompt, "
            f"got {tuple(logits.shape)}; those of the last position alone will do for the prompt only."
        )
    live, left = torch.tensor(state.running, device=inputs.device), torch.tensor(counts, device=inputs.device)
    steps, accepted = [], torch.zeros_like(left)
    for place in range(inputs.shape[1]):
        step = state.chooser.choose(logits[:, place], live)
        steps.append(step)
        if place < proposals.shape[1]:
            agreed = live & (step.ids == proposals[:, place]) & (place < left)
            accepted, live = accepted + agreed, agreed & (step.codes == RUNNING)
    return steps, accepted
