"""Speculative decoding: which proposed ids the target model keeps, and proposals without a draft model.

Shapes: B batch, K proposals of a row, V vocabulary, T time.
"""

import torch
from torch import Tensor

from .noise import gumbel, row_seeds, uniform
from .options import check_integer

# Neither number may be the noise that drew the proposals (stream 0), or the accepted ids would not be exact draws.
_ACCEPT, _RESAMPLE = 1, 2


def speculative_accept(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    target_probs: Tensor,
    *,
    counts: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Tensor | list[int] | None = None,
    step: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """How many proposals of each row to keep and the id that follows them: exact draws from the target's distribution.

    Leviathan et al. 2023, arXiv 2211.17192, algorithm 1: proposal x is kept with probability min(1, p(x) / q(x)); at
    the first one refused the next id comes from norm(max(p - q, 0)), and behind K kept ones from the target itself.

    draft_ids (B, K) int64; draft_probs (B, K, V), what they were drawn from after all filters, or None for proposals
    that were not drawn (`propose_by_lookup`); target_probs (B, K + 1, V), the target's after the same filters.
    counts (B,): how many proposals of a row are real, K by default. seeds (B,) and step (B,) (ids generated before)
    make a row independent of its neighbours; else the generator gives one seed per row and call.
    Returns (accepted (B,), next ids (B,)), both int64, without a host synchronisation. Raises ValueError for shapes.
    """
    batch, k = _check_shapes(draft_ids, target_probs, "target_probs")
    if draft_probs is not None and draft_probs.shape != (batch, k, target_probs.shape[2]):
        raise ValueError(
            f"draft_probs must be (B, K, V) = ({batch}, {k}, {target_probs.shape[2]}), got {tuple(draft_probs.shape)}."
        )
    device = draft_ids.device
    keys = row_seeds(batch, device, generator=generator, seeds=seeds)
    step = torch.zeros_like(keys) if step is None else step
    places = torch.arange(k, device=device)
    p = target_probs[:, :k].gather(2, draft_ids.unsqueeze(2)).squeeze(2)  # (B, K)
    q = torch.ones_like(p) if draft_probs is None else draft_probs.gather(2, draft_ids.unsqueeze(2)).squeeze(2)
    kept = uniform(keys, step, places, stream=_ACCEPT) * q < p
    accepted = _leading(kept, counts)
    left = _residual(draft_ids, draft_probs, target_probs, accepted, counts)
    noise = gumbel(keys, step, torch.arange(left.shape[1], device=device), stream=_RESAMPLE)
    return accepted, (left.log() + noise).argmax(dim=-1)


def speculative_accept_greedy(
    draft_ids: Tensor, target_logits: Tensor, *, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same at temperature 0: keep proposals while each is the target's argmax; the next id is the argmax there.

    draft_ids (B, K), target_logits (B, K + 1, V), counts (B,) as in `speculative_accept`.
    """
    _, k = _check_shapes(draft_ids, target_logits, "target_logits")
    best = target_logits.argmax(dim=-1)  # (B, K + 1)
    accepted = _leading(draft_ids == best[:, :k], counts)
    return accepted, best.gather(1, accepted.unsqueeze(1)).squeeze(1)


def _check_shapes(draft_ids: Tensor, target: Tensor, name: str) -> tuple[int, int]:
    if draft_ids.dim() != 2:
        raise ValueError(f"draft_ids must be (B, K), got shape {tuple(draft_ids.shape)}.")
    batch, k = draft_ids.shape
    if target.dim() != 3 or target.shape[:2] != (batch, k + 1):
        raise ValueError(f"{name} must be (B, K + 1, V) = ({batch}, {k + 1}, V), got {tuple(target.shape)}.")
    return batch, k


def _leading(kept: Tensor, counts: Tensor | None) -> Tensor:
    """How many of a row's first proposals are kept (B,): none behind the first refused one."""
    if counts is not None:
        kept = kept & (torch.arange(kept.shape[1], device=kept.device) < counts.unsqueeze(1))
    return kept.to(torch.int64).cumprod(dim=1).sum(dim=1)


def _residual(
    draft_ids: Tensor, draft_probs: Tensor | None, target_probs: Tensor, accepted: Tensor, counts: Tensor | None
) -> Tensor:
    """What the next id is drawn from, unnormalised (B, V): max(p - q, 0), or p where no proposal was refused."""
    batch, k = draft_ids.shape
    rows = torch.arange(batch, device=draft_ids.device)
    p = target_probs[rows, accepted].float()  # (B, V)
    if k == 0:
        return p
    place = accepted.clamp(max=k - 1)
    if draft_probs is None:
        q = torch.zeros_like(p).scatter(1, draft_ids[rows, place].unsqueeze(1), 1.0)
    else:
        q = draft_probs[rows, place].float()
    refused = accepted < (k if counts is None else counts.clamp(max=k))
    left = torch.where(refused.unsqueeze(1), (p - q).clamp(min=0), p)
    # Rounding may refuse a proposal where p and q agree; nothing is left then, and p is the right answer.
    return torch.where(left.sum(dim=1, keepdim=True) > 0, left, p)


def propose_by_lookup(
    ids: Tensor,
    k: int,
    *,
    lengths: Tensor | None = None,
    max_ngram: int = 3,
    min_ngram: int = 1,
    pad_id: int = 0,
) -> tuple[Tensor, Tensor]:
    """Propose the ids that followed the last occurrence of a row's last n ids: (proposals (B, K), counts (B,)).

    Prompt lookup (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding): it pays where the answer quotes
    the prompt. The longest n from max_ngram down to min_ngram that occurs before wins. A row without any gets count 0.
    ids (B, T) right-padded, lengths (B,) its real lengths. No host synchronisation. Raises ValueError.
    """
    for name, value in (("k", k), ("min_ngram", min_ngram), ("max_ngram", max_ngram)):
        check_integer(name, value, 1)
    if ids.dim() != 2 or max_ngram < min_ngram:
        raise ValueError(
            f"ids must be (B, T) and min_ngram at most max_ngram, got shape {tuple(ids.shape)}, "
            f"min_ngram {min_ngram} and max_ngram {max_ngram}."
        )
    batch, width = ids.shape
    ends = torch.full((batch,), width, device=ids.device) if lengths is None else lengths.to(ids.device)
    follow = torch.zeros_like(ends)  # where the proposal starts; 0 for none
    for n in range(min(max_ngram, width - 1), min_ngram - 1, -1):
        follow = torch.where(follow > 0, follow, _last_match(ids, ends, n))
    counts = torch.where(follow > 0, (ends - follow).clamp(max=k), 0)
    places = follow.unsqueeze(1) + torch.arange(k, device=ids.device)
    proposals = ids.gather(1, places.clamp(max=width - 1))
    real = torch.arange(k, device=ids.device) < counts.unsqueeze(1)
    return torch.where(real, proposals, pad_id), counts


def _last_match(ids: Tensor, ends: Tensor, n: int) -> Tensor:
    """The position behind the last earlier occurrence of each row's last n ids (B,), 0 if there is none."""
    windows = ids.unfold(1, n, 1)  # (B, T - n + 1, n)
    starts = torch.arange(windows.shape[1], device=ids.device)
    tail = windows[torch.arange(ids.shape[0], device=ids.device), (ends - n).clamp(min=0)]  # (B, n)
    same = (windows == tail.unsqueeze(1)).all(dim=2) & (starts + n < ends.unsqueeze(1))
    return torch.where(same, starts + n, 0).amax(dim=1)
