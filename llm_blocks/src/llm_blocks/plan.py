"""Where new positions stand and what they may see, planned once a forward for every layer.

Shapes: B batch, T time (new positions), S keys to look at, K kv heads, D head size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from llm_blocks.angles import VARYING
from llm_blocks.cache import KVCache
from llm_blocks.packed import PackedView, check_segments, packed_positions
from llm_blocks.rope import RopeTable, rope_table
from llm_blocks.rope_config import Rope
from llm_quant import steps

FEW = 64  # new positions of all rows together up to which steps are recorded


@dataclass(frozen=True, kw_only=True)
class View:
    """What the new positions see of the keys of the layers that share a window (None: all earlier positions).

    A query at position p of a row sees the keys at p - window + 1 to p of that row. With `causal` the keys are the new
    ones themselves, and each query sees all up to its own; else `mask` (1 or B, 1, T, S) is True where a query sees a
    key, None where each query sees all S.
    """

    window: int | None
    ends: list[int]
    queries: Tensor  # (1 or B, T) positions
    cached: int  # how many keys come from the cache: all S of them, or those older than the new ones
    fresh: bool  # whether the new keys follow those of the cache, instead of being among them
    slots: int  # of a row in the cache; 0 without one
    causal: bool
    alone: bool
    kept: ClassVar[None] = None
    spelled_out: ClassVar[bool] = False  # whether attention is better written in products and sums

    @cached_property
    def keys(self) -> Tensor:
        """The position of each key (1 or B, S); below 0 for one that isn't there."""
        if self.causal:
            return self.queries
        if self.fresh:
            return torch.cat((self.older, self.queries), dim=1)
        index = torch.arange(self.cached, device=self.queries.device)[None]
        if max(self.ends) <= self.slots:
            return index  # slots are positions
        return self.newest - (self.newest - index) % self.slots

    @cached_property
    def newest(self) -> int | Tensor:
        """The last position of each row (B, 1), or one number for all where that will do."""
        if max(self.ends) <= self.slots or min(self.ends) == max(self.ends):
            return max(*self.ends, 1) - 1
        return torch.tensor(self.ends, device=self.queries.device)[:, None].clamp(min=1) - 1

    @cached_property
    def older(self) -> Tensor:
        """The positions (1 or B, cached) just before the new ones; below 0 for one that isn't there."""
        return self.queries[:, :1] - torch.arange(self.cached, 0, -1, device=self.queries.device)

    @cached_property
    def mask(self) -> Tensor | None:
        """Which key each query sees, (1 or B, 1, T, S) bool; None where each sees all, or all up to its own."""
        return None if self.causal or self.alone else self.visible()

    def visible(self, times: slice = slice(None)) -> Tensor:
        """The mask of these of the queries written out, also where attention needs none.

        Padding sees what the last real position sees, for a query without keys gives nan, and a later layer would
        multiply that, if only by 0, into what it adds up for the others.
        """
        written = self.queries if self.causal or self.fresh else self.queries.clamp(max=self.newest)
        queries, keys = written[:, times, None], self.keys[:, None]
        seen = keys <= queries
        if self.window is not None:
            seen &= keys > queries - self.window
            if self.fresh or max(self.ends) > self.slots:
                seen &= keys >= 0
        return seen[:, None]  # (1 or B, 1, T, S)


class StepView:
    """A View of a layer whose keys and values are all `kept` in a cache, (B, K, S, D) each, for the kernels to read.

    `numbers(dtype)` gives those that are seen, (B, K, S, D) each, for whoever doesn't read them there. `starts` and
    `ends` are the positions of the new ones of each row. All else is that of the `plain` view.
    """

    __slots__ = ("ends", "kept", "numbers", "plain", "starts")

    def __init__(self, view: View, cache: KVCache, layer: int, starts: list[int], ends: list[int]) -> None:
        self.plain, self.kept, self.starts, self.ends = view, cache.kept(layer), starts, ends
        self.numbers = partial(cache.numbers, layer, view.cached)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The positions of one forward, and a view for each window that the layers have: made once, used by all."""

    positions: Tensor  # (1 or B, T) int64
    starts: list[int]
    ends: list[int]
    cache: KVCache | None
    windows: Mapping[int, int]  # layer -> window, for those that have one
    views: Mapping[int | None, View | PackedView]
    level: bool  # whether all rows begin at the same position and have as many new ones
    segments: tuple[int, ...] = ()  # of a packed row, the lengths of its texts

    def rope_table(self, rope: Rope, head_dim: int, *, dtype: torch.dtype = torch.float32) -> RopeTable:
        """Cosines and signed sines (1 or B, 1, T, R) of the new positions, for the R dimensions of a head that turn."""
        if len(self.segments) > 1 and rope.kind in VARYING:  # each has the angles of its own length
            rows = self.positions.split(self.segments, dim=1)
            tables = [rope_table(rope, head_dim, row, lengths=[row.size(1)], dtype=dtype) for row in rows]
            return torch.cat([cos for cos, _ in tables], dim=2), torch.cat([sin for _, sin in tables], dim=2)
        if self.cache is None or rope.kind in VARYING:
            return rope_table(rope, head_dim, self.positions, lengths=self._lengths(rope), dtype=dtype)
        end = max(self.starts) + self.positions.size(1)
        if end > self.cache.capacity:  # padding
            return rope_table(rope, head_dim, self.positions, dtype=dtype)
        return self.cache.angles(rope, head_dim, dtype).table(self.positions, self.starts, end)

    def _lengths(self, rope: Rope) -> list[int]:
        """How long the text of each row is taken to be: as far as it has come, but for what its cache says of it.

        Where that says nothing, LongRoPE takes it to fill the cache, for its angles must not change on the way.
        """
        if self.cache is None:
            return self.ends
        unknown = self.cache.capacity if rope.kind == "longrope" else 0
        return [max(end, unknown if aim is None else aim) for end, aim in zip(self.ends, self.cache.aims, strict=True)]

    def remember(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, View | StepView | PackedView]:
        """Store the new keys and values (B, K, T, D) of a layer; give those to look at, (B, K, S, D), and the view."""
        view = self.views[self.windows.get(layer)]
        if self.cache is None or isinstance(view, PackedView):
            return k, v, view
        if view.fresh:  # the new ones would take the place of older ones that are still to be seen
            seen = self._older(layer, k, v, view)
            self._store(layer, k, v)
            return *seen, view
        kept = self.cache.kept(layer)
        few = k.size(0) * k.size(2) <= steps.most_positions(k.dtype) and v.size(3) > 0
        stored = few and steps.store(k, v, kept, self.starts, self.ends)
        if not stored:
            self._store(layer, k, v)
            seen = (k, v) if view.causal else self.cache.numbers(layer, view.cached, k.dtype)
            return *seen, view
        return *_seen(kept, view.cached, k.dtype), StepView(view, self.cache, layer, self.starts, self.ends)

    def commit(self) -> None:
        """Count the new positions in, after every layer has stored them."""
        if self.cache is not None:
            self.cache.commit(self.ends)

    def _older(self, layer: int, k: Tensor, v: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """The keys and values from the cache that the view wants, and the new ones after them."""
        assert self.cache is not None
        self.cache._require(layer)
        old_k, old_v = self.cache.numbers(layer, view.slots, k.dtype)
        slots = view.older % old_k.size(2)
        if slots.size(0) == 1:
            old_k, old_v = old_k.index_select(2, slots[0]), old_v.index_select(2, slots[0])
        else:
            rows = torch.arange(slots.size(0), device=slots.device)[:, None]
            old_k, old_v = old_k[rows, :, slots].transpose(1, 2), old_v[rows, :, slots].transpose(1, 2)
        return torch.cat((old_k.to(k.dtype), k), dim=2), torch.cat((old_v.to(v.dtype), v), dim=2)

    def _store(self, layer: int, k: Tensor, v: Tensor) -> None:
        assert self.cache is not None
        slots = self.cache.slots(self.windows.get(layer))
        if self.level:
            first = max(self.starts[0], self.ends[0] - slots)  # of more than the slots, the newest stay
            new = slice(first - self.starts[0], self.ends[0] - self.starts[0])
            self.cache.write(layer, first, k[:, :, new], v[:, :, new])
        else:
            rows, times, positions = self._pairs[slots]
            self.cache.scatter(layer, rows, positions, k[rows, :, times], v[rows, :, times])

    @cached_property
    def _pairs(self) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """By number of slots: row, time and position of each new position to store, where rows differ."""
        assert self.cache is not None
        sizes = {self.cache.slots(window) for window in self.views}
        return {slots: self._newest(slots) for slots in sizes}

    def _newest(self, slots: int) -> tuple[Tensor, Tensor, Tensor]:
        # on the host, where nothing has to wait for the device to count them
        starts, ends = (torch.tensor(each)[:, None] for each in (self.starts, self.ends))
        positions = starts + torch.arange(self.positions.size(1))  # (B, T)
        rows, times = ((positions < ends) & (positions >= ends - slots)).nonzero(as_tuple=True)
        device = self.positions.device
        return rows.to(device), times.to(device), positions[rows, times].to(device)


def _seen(kept: tuple[Tensor, ...], count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values for the view of a step; of a cache in int8 their shapes alone, for `attend` asks the view."""
    k, v = kept[0][:, :, :count], kept[1][:, :, :count]
    if len(kept) == 2:
        return k.to(dtype), v.to(dtype)
    return k.new_empty(k.shape, dtype=dtype, device="meta"), v.new_empty(v.shape, dtype=dtype, device="meta")


def plan_attention(
    batch: int,
    time: int,
    *,
    counts: list[int] | None,
    cache: KVCache | None,
    device: torch.device,
    layers: Mapping[int, int | None] | None = None,
    segments: Sequence[int] | None = None,
) -> Plan:
    """Plan a forward over (B, T) new positions, of which the first counts[b] of row b are real, the rest padding.

    `layers` gives the window of each layer that will run, None for one that sees all earlier positions; by default no
    layer has a window. With `segments` the one row is packed: it is texts of these lengths one after the other, each of
    which stands at position 0 and sees itself alone. Raises ValueError for counts or segments that don't fit the input,
    for both, for a packed row with a cache, and for a cache without room; nothing is written then.
    """
    if segments is not None:
        if counts is not None or cache is not None:
            raise ValueError("a packed row has no padding and goes into no cache: leave counts and cache out")
        return _packed(check_segments(batch, time, segments), device, layers or {})
    counts = check_counts(batch, time, counts)
    starts, ends = ([0] * batch, counts) if cache is None else (list(cache.lengths), cache.ends(counts))
    if min(starts) == max(starts):
        positions = torch.arange(starts[0], starts[0] + time, device=device)[None]  # (1, T)
    else:
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(time, device=device)  # (B, T)
    windows, wanted = _windows(layers or {})
    if cache is not None:
        cache.reach(ends)
    return Plan(
        positions=positions,
        starts=starts,
        ends=ends,
        cache=cache,
        windows=windows,
        views={window: _view(window, positions, starts, ends, cache) for window in wanted},
        level=positions.size(0) == 1 and min(ends) == max(ends),
    )


def _packed(segments: tuple[int, ...], device: torch.device, layers: Mapping[int, int | None]) -> Plan:
    rows = {length: torch.arange(length, device=device)[None] for length in segments}
    windows, wanted = _windows(layers)
    alone = {window: {n: _view(window, row, [0], [n], None) for n, row in rows.items()} for window in wanted}
    return Plan(
        positions=packed_positions(segments, device),
        starts=[0],
        ends=[max(segments)],
        cache=None,
        windows=windows,
        views={window: PackedView(segments=segments, views=views) for window, views in alone.items()},
        level=True,
        segments=segments,
    )


def _windows(layers: Mapping[int, int | None]) -> tuple[dict[int, int], set[int | None]]:
    """The window of each layer that has one, and all that are there, None among them where a layer has none."""
    return {n: window for n, window in layers.items() if window is not None}, set(layers.values()) or {None}


def check_counts(batch: int, time: int, counts: list[int] | None) -> list[int]:
    """The number of real positions of each row, all T by default; ValueError for one outside 0 to T."""
    if counts is None:
        return [time] * batch
    if len(counts) != batch or not all(0 <= count <= time for count in counts):
        raise ValueError(f"counts needs one number from 0 to {time} for each of the {batch} rows, got {counts}")
    return counts


def _view(window: int | None, positions: Tensor, starts: list[int], ends: list[int], cache: KVCache | None) -> View:
    time, end = positions.size(1), max(ends)
    slots = 0 if cache is None else cache.slots(window)
    narrow = window is not None and end > window
    causal = max(starts) == 0 and not narrow
    # written before they are read, more new positions than are spare would take the place of keys still to be seen
    fresh = not causal and (cache is None or (window is not None and end > slots and time > slots - window + 1))
    return View(
        window=window,
        ends=ends,
        queries=positions,
        cached=min((window or end) - 1, max(starts)) if fresh else min(end, slots),
        fresh=fresh,
        slots=slots,
        causal=causal,
        alone=positions.size(0) == 1 and time == 1 and not narrow,
    )
