"""What the filters need to know about the ids so far; nothing is kept that no option asks for.

Shapes: B batch, T prompt, V vocabulary, N generated ids.
"""

from typing import Any

import torch
from torch import Tensor

from .options import Allowed, Settings


class History:
    """The tokens of prompt and answer, their counts, and the mask of allowed tokens for the next step."""

    def __init__(
        self, settings: Settings, allowed: Allowed | None, prompt: Tensor, lengths: Tensor, vocab: int
    ) -> None:
        shape, device = (prompt.shape[0], vocab), prompt.device
        self._allowed = allowed
        self._shape = shape
        self._seen = _tokens_of(prompt, lengths, vocab) if settings.needs_seen else None
        self._counts = torch.zeros(shape, device=device) if settings.needs_counts else None
        self._generated = prompt[:, :0] if allowed is not None and not isinstance(allowed, Tensor) else None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `pick` that hold the history: seen, counts and allowed, (B, V) or None."""
        return {"seen": self._seen, "counts": self._counts, "allowed": self._mask()}

    def _mask(self) -> Tensor | None:
        if self._allowed is None:
            return None
        mask = self._allowed
        if not isinstance(mask, Tensor):
            assert self._generated is not None
            mask = mask(self._generated)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape not in (self._shape, self._shape[1:]):
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"allowed must give a bool mask (V,) or (B, V) = {self._shape}, got {got}.")
        return mask

    def add(self, ids: Tensor, shown: Tensor) -> None:
        """Take note of the ids (B,) chosen; `shown` (B,) is the same with -1 in rows that ended before."""
        column = ids.unsqueeze(1)
        if self._seen is not None:
            self._seen.scatter_(1, column, True)
        if self._counts is not None:
            self._counts.scatter_add_(1, column, torch.ones_like(column, dtype=self._counts.dtype))
        if self._generated is not None:
            self._generated = torch.cat([self._generated, shown.unsqueeze(1)], dim=1)


def _tokens_of(prompt: Tensor, lengths: Tensor, vocab: int) -> Tensor:
    if int(prompt.max()) >= vocab:
        raise ValueError(f"input_ids must be below the {vocab} tokens of the logits, got {int(prompt.max())}.")
    inside = torch.arange(prompt.shape[1], device=prompt.device) < lengths.unsqueeze(1)
    # Padding counts as another copy of the row's first id.
    real = torch.where(inside, prompt, prompt[:, :1])
    return torch.zeros(prompt.shape[0], vocab, dtype=torch.bool, device=prompt.device).scatter_(1, real, True)
