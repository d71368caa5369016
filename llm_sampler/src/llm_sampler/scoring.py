"""Scoring given answers: how probable is each continuation of a prompt.

Shapes: C continuations, T time, V vocabulary, N ids of the longest continuation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .options import check_integer
from .prompts import check_logits, read_lengths

Ids = Tensor | Sequence[int]
ForwardFunc = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-probabilities (natural logarithm, float32) of C continuations."""

    token_logprobs: Tensor
    """(C, N) of each id given everything before it; 0 behind a continuation's end."""
    lengths: Tensor
    """(C,) ids in each continuation."""
    unconditional: Tensor | None = None
    """(C,) sums behind the unconditional prompt, if one was given."""

    @property
    def sum(self) -> Tensor:
        """(C,) log-probability of the whole continuation."""
        return self.token_logprobs.sum(dim=1)

    @property
    def mean(self) -> Tensor:
        """(C,) log-probability per id: long continuations don't lose for being long."""
        return self.sum / self.lengths

    @property
    def normalised(self) -> Tensor:
        """(C,) log of P(continuation | prompt) / P(continuation | unconditional prompt): what the prompt adds.

        Holtzman et al. 2021, arXiv 2104.08315. Raises ValueError if no unconditional prompt was given to `score`.
        """
        if self.unconditional is None:
            raise ValueError(
                "Scores are normalised by an unconditional prompt; give score(..., unconditional=bos_ids)."
            )
        return self.sum - self.unconditional


@torch.no_grad()
def score(
    forward_func: ForwardFunc,
    input_ids: Tensor,
    continuations: Sequence[Ids],
    *,
    lengths: Tensor | Sequence[int] | None = None,
    unconditional: Ids | None = None,
    batch_size: int | None = None,
    pad_id: int = 0,
) -> Scores:
    """Log-probabilities of the continuations, several in one call of forward_func, padded on the right.

    forward_func: ids (B, T) -> logits (B, T, V), causal, so that padding behind a row's end changes nothing.
    input_ids: one prompt (T,) or (1, T) for all, or one for each continuation (C, T) with `lengths` (C,) if unequal.
    unconditional: ids to compare with, such as the BOS id alone. batch_size: rows per call, all if None.
    Raises ValueError for empty or wrong ids and for logits with NaN or inf.
    """
    answers = [_as_ids("continuations", ids) for ids in continuations]
    if not answers:
        raise ValueError("continuations must hold at least one list of ids, got none.")
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    prompts = _prompts(input_ids, lengths, len(answers))
    device, size = input_ids.device, batch_size or len(answers)
    start = None if unconditional is None else [_as_ids("unconditional", unconditional)] * len(answers)
    tokens = _score_rows(forward_func, prompts, answers, size, pad_id, device)
    baseline = None
    if start is not None:
        baseline = _score_rows(forward_func, start, answers, size, pad_id, device).sum(dim=1)
    counts = torch.tensor([len(ids) for ids in answers], device=device)
    return Scores(token_logprobs=tokens, lengths=counts, unconditional=baseline)


def choose(
    forward_func: ForwardFunc,
    input_ids: Tensor,
    continuations: Sequence[Ids],
    *,
    by: Literal["sum", "mean", "normalised"] = "sum",
    lengths: Tensor | Sequence[int] | None = None,
    unconditional: Ids | None = None,
    batch_size: int | None = None,
    pad_id: int = 0,
) -> int:
    """The index of the best continuation: by log-probability, by that per id, or by what the prompt adds to it."""
    if by not in ("sum", "mean", "normalised"):
        raise ValueError(f"by must be 'sum', 'mean' or 'normalised', got {by!r}.")
    if by == "normalised" and unconditional is None:
        raise ValueError("by='normalised' needs an unconditional prompt; give unconditional=bos_ids.")
    scores = score(
        forward_func,
        input_ids,
        continuations,
        lengths=lengths,
        unconditional=unconditional,
        batch_size=batch_size,
        pad_id=pad_id,
    )
    values = scores.normalised if by == "normalised" else scores.mean if by == "mean" else scores.sum
    # Impossible with and without the prompt has no ratio; argmax would prefer that NaN.
    return int(values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argmax())


def _as_ids(name: str, ids: Ids) -> list[int]:
    values = ids.reshape(-1).tolist() if isinstance(ids, Tensor) else list(ids)
    if not values or any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{name} must hold at least one id, and integers of at least 0 only, got {values!r}.")
    return values


def _prompts(input_ids: Tensor, lengths: Tensor | Sequence[int] | None, count: int) -> list[list[int]]:
    rows = input_ids.unsqueeze(0) if input_ids.dim() == 1 else input_ids
    if rows.dim() != 2 or rows.shape[0] not in (1, count):
        raise ValueError(
            f"input_ids must be one prompt (T,) or (1, T), or one per continuation ({count}, T), "
            f"got shape {tuple(input_ids.shape)}."
        )
    ends = read_lengths(lengths, *rows.shape)
    prompts = [_as_ids("input_ids", row[:end]) for row, end in zip(rows, ends, strict=True)]
    return prompts * count if len(prompts) == 1 else prompts


def _score_rows(
    forward_func: ForwardFunc,
    prompts: list[list[int]],
    answers: list[list[int]],
    size: int,
    pad_id: int,
    device: torch.device,
) -> Tensor:
    """Log-probabilities (C, N) of the answers' ids behind their prompts, 0 behind their ends."""
    result = torch.zeros(len(answers), max(map(len, answers)), device=device)
    for first in range(0, len(answers), size):
        chunk = slice(first, first + size)
        logprobs = _score_batch(forward_func, prompts[chunk], answers[chunk], pad_id, device)
        bad = (logprobs.isnan() | (logprobs == torch.inf)).any(dim=1).nonzero().reshape(-1).tolist()
        if bad:
            rows = ", ".join(str(first + row) for row in bad)
            raise ValueError(f"The logits for continuation {rows} hold NaN or inf; check the model's output and dtype.")
        result[chunk, : logprobs.shape[1]] = logprobs
    return result


def _score_batch(
    forward_func: ForwardFunc, prompts: list[list[int]], answers: list[list[int]], pad_id: int, device: torch.device
) -> Tensor:
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    ids = padded(rows, pad_id, device)
    logits = check_logits(forward_func(ids), ids)
    if logits.shape[1] != ids.shape[1]:
        raise ValueError(f"forward_func must return logits at all {ids.shape[1]} positions to score, got one alone.")
    if (largest := max(map(max, answers))) >= logits.shape[2]:
        raise ValueError(f"continuations must be below the {logits.shape[2]} tokens of the logits, got {largest}.")
    targets = padded(answers, 0, device)  # (C, N)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=device)
    offsets = torch.arange(targets.shape[1], device=device)
    # The id at position i is foretold by the logits at i - 1. Only those positions get a softmax.
    places = (starts.unsqueeze(1) + offsets - 1).clamp(max=ids.shape[1] - 1)
    own = logits.to(device)[torch.arange(len(rows), device=device).unsqueeze(1), places]  # (C, N, V)
    logprobs = own.float().log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    inside = offsets < torch.tensor([len(answer) for answer in answers], device=device).unsqueeze(1)
    return torch.where(inside, logprobs, 0.0)


def padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Tensor:
    """The rows as one tensor (B, T), filled with pad_id on the right."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], device=device)
