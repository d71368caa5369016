"""Feed prompts to a model in chunks, and keep what it has read. Shapes: B batch, T time, V vocabulary, L layers."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

CHUNK = 1024  # positions of a prompt in one forward: bounds the memory of hidden states; smaller is slower
ROUND = 256  # caches grow in steps, so that a conversation doesn't copy its cache every turn


class PromptCache:
    """The ids that a model has read in one conversation, with their keys and values.

    Give the same object to each call of a conversation: only what differs from the ids before is read again.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._kv: Any = None
        self._model: Any = None

    def prepare(self, model: Any, ids: list[int], length: int) -> Any:
        """A KV cache with room for `length` positions that holds as much of `ids` as was read before.

        At least the last id is left to read, because its logits are wanted.
        """
        known = _common_prefix(self._ids, ids[:-1])
        old = self._kv
        if old is None or self._model is not model or not _fits(old, model):
            known, self._kv, self._model = 0, model.new_cache(1, length), model
        else:
            known = min(known, old.lengths[0])  # less than was read, where an interruption came while it was copied
            known = known if old.holds(0, known, aim=len(ids)) else 0
            if old.capacity < length:
                old.truncate(known)
                self._kv = model.new_cache(1, length)
                self._kv.copy_from(old)
        self._kv.truncate(known)
        self._ids = ids[:known]
        return self._kv

    @property
    def known(self) -> int:
        """How many ids are noted as read."""
        return len(self._ids)

    def extend(self, ids: list[int]) -> None:
        """Note ids that were read after those known so far."""
        self._ids += ids

    def rewind(self, length: int) -> None:
        """Forget the ids from position `length` on, which are about to be written over."""
        del self._ids[length:]

    @cached_property
    def draft(self) -> "PromptCache":
        """The same for a draft model, which reads the same conversation."""
        return PromptCache()


def rounded(length: int, limit: int) -> int:
    """`length` rounded up to the step in which caches grow, but no more than `limit`."""
    return min(limit, -(-length // ROUND) * ROUND)


@torch.inference_mode()
def prefill(model: Any, kv: Any, prompts: list[list[int]], *, chunk: int | None = None) -> Tensor:
    """Read what the cache doesn't hold of each prompt; the logits after each prompt's last id, (B, 1, V).

    At most `chunk` positions go through the model at a time, CHUNK where it is None.
    """
    chunk = CHUNK if chunk is None else chunk
    device = next(model.parameters()).device
    kv.aims[:] = map(len, prompts)
    rest = [ids[start:] for ids, start in zip(prompts, kv.lengths, strict=True)]
    logits = None
    for at in range(0, max(map(len, rest)), chunk):
        pieces = [ids[at : at + chunk] for ids in rest]
        counts = [len(piece) for piece in pieces]
        out = model(padded(pieces).to(device), kv, counts=counts, last_only=True)
        ended_before = torch.tensor(counts, device=device)[:, None, None] == 0
        logits = out if logits is None else torch.where(ended_before, logits, out)
    assert logits is not None
    return logits


@torch.inference_mode()
def spread(model: Any, kv: Any, copies: int, length: int) -> Any:
    """A cache of `length` positions whose rows are those of `kv`, each `copies` times."""
    result = model.new_cache(len(kv.lengths) * copies, length)
    result.copy_from(kv, copies)
    return result


def padded(rows: list[list[int]]) -> Tensor:
    """Rows of ids as one tensor (B, T), padded with 0 on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)


def _fits(kv: Any, model: Any) -> bool:
    """Whether the cache is of the device and dtype that the model has now (it may have been moved in between)."""
    weight = next(model.parameters())
    keys = next(iter(kv.k.values()))
    return keys.device == weight.device and keys.dtype == weight.dtype


def _common_prefix(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
