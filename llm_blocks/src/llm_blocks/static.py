"""A plan of which no number changes from step to step: positions are a tensor, so one compiled graph serves them all.

Shapes: B batch, T time (new positions), S slots of a layer in the cache, K kv heads, D head size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from llm_blocks.plan import Plan
from llm_blocks.rope import RopeTable, rope_table
from llm_blocks.rope_config import Rope


@dataclass(frozen=True, kw_only=True)
class StaticView:
    """What attention asks of a `View`, where the new positions see the slots of a layer through a mask."""

    queries: Tensor  # (B, T) positions
    keys: Tensor  # (1 or B, S) the position in each slot; below 0 for none
    mask: Tensor  # (B, 1, T, S) bool: which slot each query sees
    spelled_out: bool
    causal: bool = False
    alone: bool = False
    kept: None = None

    def visible(self, times: slice = slice(None)) -> Tensor:
        """The mask of these of the queries."""
        return self.mask[:, :, times]


class StaticPlan:
    """Stands for a `Plan` in a compiled step: `store` has keys and values (B, K, S, D) of each layer, written in place.

    `positions` (B, T) of a row ascend and are below S, but for layers with a window, which go around; a row that stays
    as it is has -1. `beyond` is the length that all texts are taken to have where angles depend on that (LongRoPE).
    """

    starts: tuple[int, ...] = ()  # for models that check them: the caller of a compiled step has
    ends: tuple[int, ...] = ()

    def __init__(
        self,
        positions: Tensor,
        store: Mapping[int, tuple[Tensor, Tensor]],
        windows: Mapping[int, int | None],
        *,
        beyond: int | None = None,
    ) -> None:
        self.positions = positions.clamp(min=0)
        self._real = (positions >= 0)[:, :, None, None]  # (B, T, 1, 1)
        self._rows = torch.arange(positions.size(0), device=positions.device)[:, None]
        self._store, self._windows, self._beyond = store, windows, beyond
        self._views: dict[tuple[int | None, int], StaticView] = {}

    def commit(self) -> None:
        """The caller counts the positions in."""

    def rope_table(self, rope: Rope, head_dim: int, *, dtype: torch.dtype = torch.float32) -> RopeTable:
        """As `Plan.rope_table`."""
        lengths = None if self._beyond is None else [self._beyond]
        return rope_table(rope, head_dim, self.positions, lengths=lengths, dtype=dtype)

    def remember(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, StaticView]:
        """As `Plan.remember`; gives all slots of the layer."""
        keys, values = self._store[layer]
        slots = self.positions % keys.size(2)
        for stored, new in ((keys, k), (values, v)):
            if stored.size(3):
                fresh = new.transpose(1, 2).to(stored.dtype)  # (B, T, K, D)
                stored[self._rows, :, slots] = torch.where(self._real, fresh, stored[self._rows, :, slots])
        return keys.to(k.dtype), values.to(v.dtype), self._view(self._windows[layer], keys.size(2))

    def _view(self, window: int | None, slots: int) -> StaticView:
        if (window, slots) not in self._views:
            index = torch.arange(slots, device=self.positions.device)[None]
            newest = self.positions[:, -1:]
            keys = index if window is None else newest - (newest - index) % slots  # (1 or B, S)
            queries = self.positions[:, :, None]
            seen = keys[:, None] <= queries
            if window is not None:
                seen = seen & (keys[:, None] > queries - window) & (keys[:, None] >= 0)
            self._views[window, slots] = StaticView(
                queries=self.positions,
                keys=keys,
                mask=seen[:, None],
                spelled_out=index.device.type == "cuda",
            )
        return self._views[window, slots]


def static_forward(
    model: Any, x: Tensor, positions: Tensor, keys: list[Tensor], values: list[Tensor], beyond: int | None
) -> Tensor:
    """What `model(x, cache)` gives for x (B, T) at positions (B, T) and the storage of its layers, in their order."""
    store = dict(zip(model.windows, zip(keys, values, strict=True), strict=True))
    plan = StaticPlan(positions, store, model.windows, beyond=beyond)
    known = cast(Plan, plan)  # whose every use in a model and in attention it answers
    if model.begin is not None:
        x = model.begin(x, known)
    return model.leave(x, model.context(known, x.dtype), known)
