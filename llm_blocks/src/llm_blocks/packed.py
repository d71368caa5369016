"""Texts one after the other in a single row, each attending to itself alone: what training is fed instead of padding.

Shapes: S segments, T time (all positions), t positions of a segment, H heads, K kv heads, D head size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PackedView:
    """What the positions of a packed row see: those of their own segment, through the view of a row of its length.

    There is no mask over the whole row: segments of one length are rows of a batch, and no product is made of positions
    of two segments.
    """

    segments: tuple[int, ...]
    views: Mapping[int, Any]  # by length: the `View` of a row of so many positions
    kept: ClassVar[None] = None

    def attend(self, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`function(q, k, v, view)` for segments (S, H, t, D) of equal lengths at a time: (1, H, T, D)."""
        if len(self.views) == 1:
            rows = (self._rows(each) for each in (q, k, v))
            out = function(*rows, self.views[self.segments[0]])
            return out.transpose(0, 1).flatten(1, 2)[None]
        pieces = [each.split(self.segments, dim=2) for each in (q, k, v)]
        found: dict[int, Tensor] = {}
        for length, view in self.views.items():
            which = [index for index, own in enumerate(self.segments) if own == length]
            rows = (torch.cat([piece[index] for index in which]) for piece in pieces)
            found |= zip(which, function(*rows, view).split(1), strict=True)
        return torch.cat([found[index] for index in range(len(self.segments))], dim=2)

    def _rows(self, x: Tensor) -> Tensor:
        """(1, K, T, D) whose segments are equally long as rows of a batch, (S, K, t, D).

        Squeezed and not indexed, for which backward would fill a tensor with zeros.
        """
        return x.squeeze(0).unflatten(1, (len(self.segments), -1)).transpose(0, 1)


def check_segments(batch: int, time: int, segments: Sequence[int]) -> tuple[int, ...]:
    """The lengths of a packed row's segments; ValueError unless it is one row, and they are positive and sum to T."""
    if batch != 1:
        raise ValueError(f"segments are those of one row, and the input has {batch}; put them one after the other")
    if not segments or min(segments) < 1 or sum(segments) != time:
        raise ValueError(f"segments are lengths of at least 1 that sum to the row's {time} positions, got {segments}")
    return tuple(segments)


def packed_positions(segments: Sequence[int], device: torch.device) -> Tensor:
    """Positions (1, T) that start anew with each segment."""
    return torch.cat([torch.arange(length, device=device) for length in segments])[None]
