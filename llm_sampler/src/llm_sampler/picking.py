"""One step of sampling: logits (B, V) -> ids (B,), as one function that `torch.compile(fullgraph=True)` takes.

Shapes: B batch, V vocabulary, W candidates that are left (V, or the largest top_k of the batch).
"""

import torch
from torch import Tensor

from . import filters
from .noise import gumbel
from .options import Settings


def pick(
    logits: Tensor,
    settings: Settings,
    *,
    step: Tensor,
    seen: Tensor | None = None,
    counts: Tensor | None = None,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose one id per row: (ids (B,), bad (B,)), without reading anything back to the host.

    step (B,) int64 is how many ids each row has generated: seed and step fix the row's noise. seen (B, V) bool and
    counts (B, V) are needed with penalties (`Settings.needs_seen`, `needs_counts`). A row is bad when its logits hold
    NaN or inf or when no token is left (all -inf); its id means nothing then.
    """
    scores = adjust(logits, settings, step=step, seen=seen, counts=counts, allowed=allowed)
    if settings.all_greedy:
        chosen, ids = scores.max(dim=-1)
    else:
        ids = _draw(scores, settings, step)
        chosen = scores.gather(1, ids.unsqueeze(1)).squeeze(1)
    # The largest logit of a row is NaN or inf if any is, and the chosen score is -inf only if all are.
    good = chosen.isfinite()
    if not settings.all_greedy or scores is not logits:
        good = good & logits.amax(dim=-1).isfinite()
    return ids, ~good


def adjust(
    logits: Tensor,
    settings: Settings,
    *,
    step: Tensor,
    seen: Tensor | None = None,
    counts: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """What comes before the temperature, and counts for greedy rows too: penalties, bias, masks. (B, V) -> (B, V)."""
    if settings.repetition_penalty is not None and seen is not None:
        logits = filters.repetition_penalty(logits.float(), seen, settings.repetition_penalty)
    if settings.presence_penalty is not None and counts is not None:
        logits = filters.presence_penalty(logits.float(), counts, settings.presence_penalty)
    if settings.frequency_penalty is not None and counts is not None:
        logits = filters.frequency_penalty(logits.float(), counts, settings.frequency_penalty)
    if settings.bias is not None:
        logits = filters.logit_bias(logits.float(), settings.bias)
    if allowed is not None:
        logits = filters.allowed(logits, allowed)
    if settings.min_new_tokens is not None and settings.end_mask is not None:
        logits = filters.min_new_tokens(logits, step, settings.min_new_tokens, settings.end_mask)
    return logits


def _draw(scores: Tensor, settings: Settings, step: Tensor) -> Tensor:
    candidates, tokens = _warp(scores.float(), settings)  # (B, W), (B, W) or (V,)
    winner = (candidates + gumbel(settings.seeds, step, tokens)).argmax(dim=-1)
    ids = winner if tokens.dim() == 1 else tokens.gather(1, winner.unsqueeze(1)).squeeze(1)
    return ids if settings.greedy is None else torch.where(settings.greedy, scores.argmax(dim=-1), ids)


def _warp(scores: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Temperature, top_k, top_p, min_p, typical_p: the filtered candidates and their token ids."""
    if settings.temperature is not None:
        scores = scores / settings.temperature  # 1 for greedy rows, whose argmax is taken elsewhere
    tokens = torch.arange(scores.shape[-1], device=scores.device)
    if settings.top_k is not None and settings.top_k_everywhere:
        # With a top_k in every row the other filters see its few candidates instead of the whole vocabulary.
        tokens = filters.ranked(scores, settings.top_k_bound)
        scores = scores.gather(1, tokens)
        ranks = torch.arange(settings.top_k_bound, device=scores.device)
        scores = scores.masked_fill(ranks >= settings.top_k, -torch.inf)
    elif settings.top_k is not None:
        scores = filters.top_k(scores, settings.top_k, bound=settings.top_k_bound)
    if settings.top_p is not None:
        scores = filters.top_p(scores, settings.top_p)
    if settings.min_p is not None:
        scores = filters.min_p(scores, settings.min_p)
    if settings.typical_p is not None:
        scores = filters.typical_p(scores, settings.typical_p)
    return scores, tokens


def token_logprobs(logits: Tensor, ids: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under the model itself, before any filter: of the ids (B,), and of the `top` best.

    Returns (B,) float32, the best ids (B, top) and their log-probabilities (B, top).
    """
    logits = logits.float()
    total = logits.logsumexp(dim=-1, keepdim=True)
    best, best_ids = logits.topk(top, dim=-1)
    chosen = logits.gather(1, ids.unsqueeze(1)) - total
    return chosen.squeeze(1), best_ids, best - total
