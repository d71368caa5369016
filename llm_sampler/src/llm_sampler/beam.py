"""Beam search over any callable from ids (B, T) to logits (B, T, V).

Shapes: B running beams, T time, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .options import check_integer
from .prompts import last_logits, read_prompts
from .stopping import as_lists, check_ids


@dataclass(frozen=True, kw_only=True)
class Beam:
    """One continuation that beam search found."""

    ids: tuple[int, ...]
    """The new ids; the last one is an end id if `finished`."""
    logprob: float
    """The sum of the ids' log-probabilities."""
    score: float
    """logprob / len(ids) ** length_penalty, by which beams are ranked."""
    finished: bool
    """Whether it ended by an end id; else the budget ended it."""


@torch.no_grad()
def beam_search(
    forward_func: Callable[[Tensor], Tensor],
    input_ids: Tensor,
    *,
    max_new_tokens: int,
    beams: int = 4,
    returned: int = 1,
    length_penalty: float = 1.0,
    end_ids: Sequence[int] = (),
) -> list[Beam]:
    """The `returned` best continuations of one prompt (T,) or (1, T), best first.

    length_penalty 0 ranks by the sum of log-probabilities, 1 by their mean; above that longer answers gain. The
    search goes on until no running beam can still reach the ranks that are returned. With beams >= V ** max_new_tokens
    the result is exact. Raises ValueError for wrong arguments and for logits with NaN or inf.
    """
    for name, value, least in (("max_new_tokens", max_new_tokens, 1), ("beams", beams, 1), ("returned", returned, 1)):
        check_integer(name, value, least)
    if returned > beams:
        raise ValueError(f"returned must be at most the number of beams ({beams}), got {returned}; raise beams.")
    prompt, _ = read_prompts(input_ids.unsqueeze(0) if input_ids.dim() == 1 else input_ids, None, 0)
    if prompt.shape[0] != 1:
        raise ValueError(f"beam_search takes one prompt, got {prompt.shape[0]}; call it once for each.")
    search = _Search(
        forward_func, sorted(set(check_ids("end_ids", as_lists(end_ids)))), beams, returned, length_penalty
    )
    running, sums = prompt, torch.zeros(1, device=prompt.device)
    done: list[Beam] = []
    for new in range(1, max_new_tokens + 1):
        running, sums, ended = search.extend(running, sums, new)
        done = search.best(done + ended)
        if new == max_new_tokens:
            done = search.best(done + search.beams_of(running, sums, new, finished=False))
        if not len(sums) or search.settled(done, float(sums[0]), new, max_new_tokens):
            break
    return done


@dataclass(frozen=True)
class _Search:
    forward_func: Callable[[Tensor], Tensor]
    end_ids: Sequence[int]
    beams: int
    returned: int
    length_penalty: float

    def extend(self, running: Tensor, sums: Tensor, new: int) -> tuple[Tensor, Tensor, list[Beam]]:
        """The best unfinished extensions by one id, (B, T + 1) and their sums (B,), and the best that end with it."""
        lengths = torch.full((running.shape[0],), running.shape[1], device=running.device)
        logits = last_logits(self.forward_func(running), running, lengths)
        precise = torch.promote_types(logits.dtype, torch.float32)
        totals = sums.unsqueeze(1) + logits.to(precise).log_softmax(dim=-1)  # (B, V)
        if bool(totals.isnan().any()):
            raise ValueError(
                "The logits of a beam hold NaN or inf, or leave no token; check the model's output and dtype."
            )
        ends = torch.tensor([i for i in self.end_ids if i < totals.shape[1]], dtype=torch.int64, device=totals.device)
        ended = _best(running, totals[:, ends], ends, self.returned)
        going = _best(running, totals.index_fill(1, ends, -torch.inf), None, self.beams)
        return *going, self.beams_of(*ended, new, finished=True)

    def beams_of(self, sequences: Tensor, sums: Tensor, new: int, *, finished: bool) -> list[Beam]:
        return [
            Beam(ids=tuple(ids), logprob=total, score=total / new**self.length_penalty, finished=finished)
            for ids, total in zip(sequences[:, -new:].tolist(), sums.tolist(), strict=True)
        ]

    def best(self, found: list[Beam]) -> list[Beam]:
        return sorted(found, key=lambda beam: beam.score, reverse=True)[: self.returned]

    def settled(self, done: list[Beam], best_sum: float, new: int, most: int) -> bool:
        """Whether no running beam can displace one that is done: sums only fall, so its sum now bounds its score."""
        length = most if self.length_penalty > 0 else new + 1
        return len(done) == self.returned and best_sum / length**self.length_penalty <= done[-1].score


def _best(running: Tensor, totals: Tensor, ids: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best of the extensions totals (B, W), whose columns are the given ids or the whole vocabulary."""
    width = totals.shape[1]
    sums, places = totals.reshape(-1).topk(min(count, totals.numel()))
    sums, places = sums[sums > -torch.inf], places[sums > -torch.inf]
    columns = places % width if ids is None else ids[places % max(width, 1)]
    return torch.cat([running[places // max(width, 1)], columns.unsqueeze(1)], dim=1), sums
