"""Filters over next-token logits: pure functions (B, V) -> (B, V) that compose.

Shapes: B batch, V vocabulary (or any set of candidates).

A parameter is one number for all rows or a tensor (B,) or (B, 1) with one value per row. A filtered token gets
-inf; nothing is renormalised, so the result goes straight into the next filter or into a softmax. No filter reads
a value back to the host, and none changes its input. The order that `pick` uses is: repetition, presence and
frequency penalties, logit_bias, allowed, min_new_tokens, temperature, top_k, top_p, min_p, typical_p.
"""

import math

import torch
from torch import Tensor

Number = float | Tensor


def _column(value: Number) -> Number:
    """A per-row tensor as (B, 1), so that it broadcasts over the vocabulary; a plain number as it is."""
    return value.reshape(-1, 1) if isinstance(value, Tensor) else value


def _keep(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~kept, -torch.inf)


def temperature(logits: Tensor, temperature: Number) -> Tensor:
    """Divide by the temperature; a row with temperature 0 keeps only its largest logit (greedy)."""
    if not isinstance(temperature, Tensor):
        return logits / temperature if temperature > 0 else _keep(logits, _is_argmax(logits))
    column = temperature.reshape(-1, 1)
    greedy = column <= 0
    return _keep(logits / torch.where(greedy, 1.0, column), ~greedy | _is_argmax(logits))


def _is_argmax(logits: Tensor) -> Tensor:
    best = logits.argmax(dim=-1, keepdim=True)
    return torch.arange(logits.shape[-1], device=logits.device) == best


def top_k(logits: Tensor, k: int | Tensor, *, bound: int | None = None) -> Tensor:
    """Keep the k largest logits (as float32) of each row; of equal ones the lowest ids, so exactly k. k < 1 keeps all.

    `bound` is a number known on the host that no k exceeds: with it a per-row k costs one `topk`, without it a sort.
    """
    if not isinstance(k, Tensor):
        return logits if k < 1 else _keep(logits, _best(logits, torch.full((1, 1), k, device=logits.device), k))
    column = k.reshape(-1, 1)
    return _keep(logits, _best(logits, column, logits.shape[-1] if bound is None else bound) | (column < 1))


def _best(logits: Tensor, k: Tensor, bound: int) -> Tensor:
    count = min(bound, logits.shape[-1])
    order = ranked(logits, count)
    kept = (torch.arange(count, device=logits.device) < k).expand_as(order)
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, kept)


def ranked(logits: Tensor, count: int) -> Tensor:
    """Ids (B, count) of the largest logits, best first and equal ones by their id.

    `topk` alone leaves open which of equal values it takes, and that varies with its count: a row in bfloat16, where
    equal logits are common, would depend on its neighbours' k.
    """
    bits = logits.float().contiguous().view(torch.int32)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the order of the floats, as integers
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return (order.to(torch.int64) * 2**32 - ids).topk(count, dim=-1).indices


def top_p(logits: Tensor, p: Number) -> Tensor:
    """Keep the smallest set of most probable tokens whose mass reaches p, the first crossing token included.

    Holtzman et al. 2019, arXiv 1904.09751. p = 1 keeps everything. Needs the candidates sorted, so apply top_k first
    and only to its candidates where that is possible (`pick` does).
    """
    ordered, order = logits.float().sort(dim=-1, descending=True, stable=True)
    return _keep(logits, _smallest_mass(ordered.softmax(dim=-1), order, p))


def _smallest_mass(probs: Tensor, order: Tensor, p: Number) -> Tensor:
    """Mask in vocabulary order of the first tokens, in the order given, whose mass reaches p."""
    p = _column(p)
    before = probs.cumsum(dim=-1) - probs
    # The mass before a late token may round up to 1, so p = 1 has to say "all" itself.
    first = (before < p) | (p >= 1)
    return torch.zeros_like(first).scatter(1, order, first)


def min_p(logits: Tensor, p: Number) -> Tensor:
    """Keep tokens with at least p times the probability of the most probable one (Nguyen et al., arXiv 2407.01082)."""
    if isinstance(p, Tensor):
        floor = p.reshape(-1, 1).log()
    else:
        floor = math.log(p) if p > 0 else -math.inf
    return _keep(logits, logits >= logits.amax(dim=-1, keepdim=True) + floor)


def typical_p(logits: Tensor, p: Number) -> Tensor:
    """Keep the smallest set of mass p whose surprise is nearest to the entropy (Meister et al., arXiv 2202.00666)."""
    logprobs = logits.float().log_softmax(dim=-1)
    probs = logprobs.exp()
    entropy = torch.special.entr(probs).sum(dim=-1, keepdim=True)
    _, order = (-logprobs - entropy).abs().sort(dim=-1, stable=True)
    return _keep(logits, _smallest_mass(probs.gather(1, order), order, p))


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: Number) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens by the penalty (Keskar et al., arXiv 1909.05858).

    `seen` (B, V) bool: the token stands in the prompt or was generated. A penalty above 1 discourages repeating.
    """
    penalty = _column(penalty)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def presence_penalty(logits: Tensor, counts: Tensor, penalty: Number) -> Tensor:
    """Subtract the penalty once from each token generated before; `counts` (B, V) leaves the prompt out."""
    return logits - (counts > 0) * _column(penalty)


def frequency_penalty(logits: Tensor, counts: Tensor, penalty: Number) -> Tensor:
    """Subtract the penalty for each time that the token was generated; `counts` (B, V) leaves the prompt out."""
    return logits - counts * _column(penalty)


def logit_bias(logits: Tensor, bias: Tensor) -> Tensor:
    """Add a bias (V,) or (B, V); -inf forbids a token."""
    return logits + bias


def allowed(logits: Tensor, mask: Tensor) -> Tensor:
    """Keep the tokens where the mask (V,) or (B, V) is True: the hook for grammars."""
    return _keep(logits, mask)


def min_new_tokens(logits: Tensor, generated: Tensor, minimum: Number, ends: Tensor) -> Tensor:
    """Forbid the end ids while a row has fewer generated ids than its minimum.

    `generated` (B,): how many ids the row has; `ends` (V,) or (B, V) bool: the end ids.
    """
    return logits.masked_fill(ends & (generated.reshape(-1, 1) < _column(minimum)), -torch.inf)
