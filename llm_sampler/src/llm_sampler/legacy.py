"""The names of llm_sampler 0.1 to 0.4, with their meanings and without their bugs. New code has better ones.

Shapes: B batch, T time, V vocabulary, C continuations, N ids of the longest continuation.

What differs from the old releases, always on purpose: temperature 0 is greedy (it used to sample at temperature 1);
`sample_gpt_fast` takes the whole batch (it used the first row alone); scores are log-probabilities, not raw logits,
which can't be compared between different prefixes; the places behind a continuation's end hold NaN ("no score") where
the score of a padding token used to stand, so sum with `nansum`; `score_batch_iterative` feeds each id of a
continuation in its turn (it fed the last one every time).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .options import SamplingOptions
from .picking import pick
from .sampling import sample as sample_steps
from .scoring import padded, score

ForwardFunc = Callable[[Tensor], Tensor]


def sample(
    forward_func: ForwardFunc,
    input_ids: Tensor,
    max_new_tokens: int,
    temperature: float = 0.0,
    warp_top_k: int | None = 10,
) -> Iterator[Tensor]:
    """`sample` of 0.1.1 to 0.3: yields ids (B,). Not exported; `llm_sampler.sample` is the new one."""
    return sample_steps(forward_func, input_ids, max_new_tokens, temperature=temperature, top_k=warp_top_k)


def sample_huggingface(
    outputs: Tensor, temperature: float, top_k: int | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """One id for each row, int64 (B,), from the last position of the logits (B, T, V)."""
    logits = outputs[:, -1, :]
    batch, vocab = logits.shape
    options = SamplingOptions(temperature=temperature, top_k=top_k, generator=generator)
    settings = options.settings(batch, vocab, logits.device)
    ids, bad = pick(logits, settings, step=torch.zeros_like(settings.seeds))
    if bool(bad.any()):
        raise ValueError(f"The logits of row {int(bad.nonzero()[0])} hold NaN or inf, or leave no token.")
    return ids


def sample_gpt_fast(
    outputs: Tensor, temperature: float = 1.0, top_k: int | None = None, *, generator: torch.Generator | None = None
) -> Tensor:
    """One id for each row, int32 (B,), from the last position of the logits (B, T, V)."""
    return sample_huggingface(outputs, temperature, top_k, generator=generator).to(torch.int32)


def create_batch_with_continuations(
    input_ids: Tensor, all_continuation_ids: Sequence[Tensor], padding_value: int
) -> Tensor:
    """The prompt (T,) or (1, T) followed by each continuation, padded on the right: (C, T + N)."""
    prompt = input_ids.reshape(-1).tolist()
    return padded([prompt + _flat(ids).tolist() for ids in all_continuation_ids], padding_value, input_ids.device)


def get_scores_of_continuations(logits: Tensor, all_continuation_ids: Sequence[Tensor], padding_value: int) -> Tensor:
    """Log-probabilities (C, N) of the continuations' ids, NaN behind their ends, on the device of the logits.

    logits (C, T + N, V) for a batch that `create_batch_with_continuations` made.
    """
    answers = [_flat(ids).to(logits.device) for ids in all_continuation_ids]
    longest = max(map(len, answers))
    logprobs = logits[:, -longest - 1 : -1].float().log_softmax(dim=-1)  # (C, N, V)
    scores = torch.full(logprobs.shape[:2], torch.nan, device=logits.device)
    for row, ids in enumerate(answers):
        scores[row, : len(ids)] = logprobs[row, torch.arange(len(ids), device=ids.device), ids]
    return scores


def best_continuation_naive(scores: Tensor, epsilon: float) -> Tensor:
    """Index (0-d) of the continuation that wins id by id: each column keeps the rows within epsilon of its best.

    Rows that have ended (NaN) stay in; of several that are left the first wins.
    """
    kept = torch.ones(scores.shape[0], dtype=torch.bool, device=scores.device)
    for column in scores.unbind(dim=1):
        ended = column.isnan()
        best = torch.where(kept & ~ended, column, -torch.inf).amax()
        kept = kept & (ended | (column >= best - epsilon))
    return kept.to(torch.int64).argmax()


def score_batch(
    forward_func: ForwardFunc, input_ids: Tensor, all_continuation_ids: Sequence[Tensor], padding_value: int
) -> Tensor:
    """Log-probabilities (C, N) of the continuations in one call of forward_func, NaN behind their ends."""
    batch = create_batch_with_continuations(input_ids, all_continuation_ids, padding_value)
    with torch.no_grad():
        return get_scores_of_continuations(forward_func(batch), all_continuation_ids, padding_value)


def score_batch_iterative(
    forward_func: ForwardFunc, input_ids: Tensor, all_continuation_ids: Sequence[Tensor]
) -> list[Tensor]:
    """Log-probabilities of each continuation's ids, one forward pass a continuation: C tensors (its length,)."""
    return list(sample_multiple_choice(forward_func, input_ids, all_continuation_ids))


def sample_multiple_choice(
    forward_func: ForwardFunc, input_ids: Tensor, all_continuation_ids: Sequence[Tensor]
) -> Iterator[Tensor]:
    """The same as `score_batch_iterative`, one tensor at a time."""
    for ids in all_continuation_ids:
        yield score(forward_func, input_ids, [_flat(ids)]).token_logprobs[0].cpu()


def _flat(ids: Tensor) -> Tensor:
    return ids.reshape(-1)
