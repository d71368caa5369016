"""What the filters need to know about the ids so far; nothing is kept that no option asks for.

Shapes: B batch, T prompt, V vocabulary, N generated ids.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from .options import Allowed, Settings


class History:
    """The tokens of prompt and answer, their counts, and the mask of allowed tokens for the next id.

    Where `live` (B,) bool is given, once or always, only those rows get an id and they may differ in how many they
    have; else all rows go on together.
    """

    def __init__(
        self, settings: Settings, allowed: Allowed | None, prompt: Tensor, lengths: Tensor, vocab: int
    ) -> None:
        shape, device = (prompt.shape[0], vocab), prompt.device
        self._allowed = allowed
        self._shape = shape
        self._seen = _tokens_of(prompt, lengths, vocab) if settings.needs_seen else None
        self._counts = torch.zeros(shape, device=device) if settings.needs_counts else None
        self._generated = prompt[:, :0] if allowed is not None and not isinstance(allowed, Tensor) else None

    def copy(self) -> "History":
        """The same history, which goes on by itself."""
        other = copy.copy(self)
        other._seen = None if self._seen is None else self._seen.clone()
        other._counts = None if self._counts is None else self._counts.clone()
        return other

    def arguments(self, live: Tensor | None = None) -> dict[str, Any]:
        """The keyword arguments of `pick` that hold the history: seen, counts and allowed, (B, V) or None."""
        return {"seen": self._seen, "counts": self._counts, "allowed": self._mask(live)}

    def add(self, ids: Tensor, live: Tensor | None = None) -> None:
        """Take note of the ids (B,) chosen, -1 for a row that got none."""
        shown = ids if live is None else torch.where(live, ids, -1)
        column, real = shown.clamp(min=0).unsqueeze(1), (shown >= 0).unsqueeze(1)
        if self._seen is not None:
            self._seen.scatter_(1, column, self._seen.gather(1, column) | real)
        if self._counts is not None:
            self._counts.scatter_add_(1, column, real.to(self._counts.dtype))
        if self._generated is not None:
            self._generated = _behind(self._generated, shown, level=live is None)

    def _mask(self, live: Tensor | None) -> Tensor | None:
        if self._allowed is None or isinstance(self._allowed, Tensor):
            return None if self._allowed is None else self._checked(self._allowed)
        assert self._generated is not None
        if live is None:
            return self._checked(self._allowed(self._generated))
        # A function is asked once for each number of ids; rows that have fewer look ended to it, and are asked apart.
        numbers, mask = (self._generated >= 0).sum(dim=1), torch.ones(self._shape, dtype=torch.bool, device=live.device)
        for number in sorted(set(numbers[live].tolist())):
            part = self._checked(self._allowed(self._generated[:, :number]))
            mask = torch.where((numbers == number).unsqueeze(1), part, mask)
        return mask

    def _checked(self, mask: Any) -> Tensor:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape not in (self._shape, self._shape[1:]):
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"allowed must give a bool mask (V,) or (B, V) = {self._shape}, got {got}.")
        return mask


def _behind(generated: Tensor, ids: Tensor, *, level: bool) -> Tensor:
    """The ids (B, n) with one more behind each row's last, -1 for none; `level`: at the same place in all rows."""
    ends = torch.full_like(ids, generated.shape[1]) if level else (generated >= 0).sum(dim=1)
    if level or int(ends.max()) == generated.shape[1]:
        generated = torch.cat([generated, torch.full_like(ids, -1).unsqueeze(1)], dim=1)
    return generated.scatter(1, ends.unsqueeze(1), ids.unsqueeze(1))


def _tokens_of(prompt: Tensor, lengths: Tensor, vocab: int) -> Tensor:
    if int(prompt.max()) >= vocab:
        raise ValueError(f"input_ids must be below the {vocab} tokens of the logits, got {int(prompt.max())}.")
    inside = torch.arange(prompt.shape[1], device=prompt.device) < lengths.unsqueeze(1)
    # Padding counts as another copy of the row's first id.
    real = torch.where(inside, prompt, prompt[:, :1])
    return torch.zeros(prompt.shape[0], vocab, dtype=torch.bool, device=prompt.device).scatter_(1, real, True)
