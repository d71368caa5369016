"""Rotary angles that a cache keeps beside its keys, so that no step computes those of a position anew.

Shapes: B batch, T time, R dimensions of a head that turn.
"""

import torch
from torch import Tensor

from llm_blocks.rope import RopeTable, rope_table
from llm_blocks.rope_config import Rope

BLOCK = 256  # positions that are computed at a time
VARYING = ("dynamic", "longrope")  # kinds whose angles depend on the length of the text


class Angles:
    """Cosines and signed sines of the positions of one cache, as far as they were asked for."""

    def __init__(self, rope: Rope, head_dim: int, capacity: int, *, dtype: torch.dtype, device: torch.device) -> None:
        if rope.kind in VARYING:
            raise ValueError(f"the angles of the {rope.kind} kind depend on the length of the text")
        self._rope, self._head_dim, self._dtype, self._device = rope, head_dim, dtype, device
        size = (-(-capacity // BLOCK) * BLOCK, int(head_dim * rope.partial) // 2 * 2)
        with torch.inference_mode(False):  # a later step may need gradients
            self._cos, self._sin = (torch.empty(size, dtype=dtype, device=device) for _ in range(2))
        self._known = 0

    def table(self, positions: Tensor, starts: list[int], end: int) -> RopeTable:
        """The table (1 or B, 1, T, R) of positions (1 or B, T), which begin at `starts` and are below `end`."""
        self._compute(end)
        if positions.size(0) == 1:
            here = slice(starts[0], starts[0] + positions.size(1))
            return self._cos[here][None, None], self._sin[here][None, None]
        return self._cos[positions][:, None], self._sin[positions][:, None]

    @torch.no_grad()
    def _compute(self, end: int) -> None:
        while self._known < end:
            block = slice(self._known, self._known + BLOCK)
            positions = torch.arange(block.start, block.stop, device=self._device)[None]
            cos, sin = rope_table(self._rope, self._head_dim, positions, dtype=self._dtype)
            self._cos[block], self._sin[block] = cos[0, 0], sin[0, 0]
            self._known = block.stop
