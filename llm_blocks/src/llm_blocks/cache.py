"""The keys and values that a model has seen. Shapes: B batch, K kv heads, S slots, D head size, T time."""

from collections.abc import Iterable, Mapping
from copy import copy

import torch
from torch import Tensor

from llm_blocks.angles import Angles
from llm_blocks.rope_config import Rope

SPARE = 64
"""Slots of a windowed layer beyond its window: how far a row can be rolled back, and how many positions can be
written before attention reads them."""


class KVCache:
    """Keys and values of some layers in fixed storage (B, K, S, D) each; the rows may differ in length.

    `lengths[b]` on the host says how many positions of row b are valid. Rolling back is setting a smaller length:
    what lies beyond is never seen and is written over. `k` and `v` map an absolute layer number to its storage.

    A layer with a window of W positions (`windows`: layer -> W) keeps the newest W + SPARE positions of a row and no
    more: position p is in slot p modulo the number of slots. `value_dim` is the size of a value where it isn't the
    key's; 0 for attention that computes its values from what is stored as keys.

    In int8 each key and value is whole numbers times a scale of its own, (B, K, S) fp32 in `k_scale` and `v_scale`:
    half the memory of bf16, and an error of at most 1/254 of its largest number.

    Some rotary embeddings depend on the length of the text (LongRoPE, the dynamic kind). `aims[b]` says up to what
    length row b is being read, so that reading in chunks is reading whole; None, at first, says it may become as long
    as the cache. `long_from` is the trained length of a model with LongRoPE: beyond it a row has other angles from its
    first position on, so a row that grows past it must be read again, see `outgrown`.
    """

    def __init__(
        self,
        layers: Iterable[int],
        *,
        batch: int,
        num_kv_heads: int,
        length: int,
        head_dim: int,
        value_dim: int | None = None,
        windows: Mapping[int, int] | None = None,
        long_from: int | None = None,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        if batch < 1 or length < 1:
            raise ValueError(f"a cache needs at least one row and one position, got batch={batch}, length={length}")
        layers = tuple(layers)
        self.windows = {layer: window for layer, window in (windows or {}).items() if layer in layers}
        self.lengths = [0] * batch
        self.capacity = length
        self.aims: list[int | None] = [None] * batch
        self.long_from = long_from
        self._long = [False] * batch  # whether what a row holds has the angles of long texts
        # one more than the highest position written of each row since it last began at 0: what rolling back leaves
        self._tops = [0] * batch
        value_dim = head_dim if value_dim is None else value_dim

        def storage(layer: int, width: int) -> Tensor:
            # zeros, not empty: a masked slot still enters the products of attention, and 0 * nan is nan
            shape = (batch, num_kv_heads, self.slots(self.windows.get(layer)), width)
            return torch.zeros(shape, dtype=dtype, device=device)

        self._angles: dict[tuple[Rope, int, torch.dtype], Angles] = {}
        self.k = {layer: storage(layer, head_dim) for layer in layers}
        self.v = {layer: storage(layer, value_dim) for layer in layers}
        self.k_scale, self.v_scale = (
            {layer: torch.zeros(each.shape[:3], device=device) for layer, each in kept.items() if dtype == torch.int8}
            for kept in (self.k, self.v)
        )

    @property
    def storages(self) -> dict[str, dict[int, Tensor]]:
        """All that is kept of positions, by name: layer -> (B, K, S, ...), for whoever copies or writes a cache."""
        known = {"k": self.k, "v": self.v, "k_scale": self.k_scale, "v_scale": self.v_scale}
        return {name: storage for name, storage in known.items() if storage}

    def slots(self, window: int | None) -> int:
        """How many positions of a row the layers of this window keep."""
        return self.capacity if window is None else min(self.capacity, window + SPARE)

    def truncate(self, length: int) -> None:
        """Roll every row back to at most `length` positions."""
        if length < 0:
            raise ValueError(f"a row can't be shorter than 0 positions, got {length}")
        self.lengths[:] = [min(n, length) for n in self.lengths]

    def holds(self, row: int, length: int, *, aim: int | None = None) -> bool:
        """Whether row `row` can go on after its first `length` positions, as a text that is read up to `aim`.

        Windowed layers forget older positions, and a text beyond the trained length may have other angles.
        """
        if length == 0:
            return True
        kept = (max(0, length - window + 1) >= self._tops[row] - self.slots(window) for window in self.windows.values())
        return all(kept) and (aim is None or self._long[row] == self._is_long(aim))

    def outgrown(self) -> list[int]:
        """The rows that end where other angles begin: to go on, such a row has to be read again from length 0.

        Where `aims[row]` was set, it must be set to the text's new length first, or to None.
        """
        if self.long_from is None:
            return []
        return [row for row, n in enumerate(self.lengths) if n == self.long_from and not self._long[row]]

    def _is_long(self, length: int) -> bool:
        return self.long_from is not None and length > self.long_from

    def _turns_long(self, row: int, end: int) -> bool:
        """Whether row `row`, now reaching `end`, gets the angles of long texts."""
        aim = self.aims[row]
        return self._is_long(self.capacity if aim is None else max(aim, end))

    def ends(self, counts: list[int]) -> list[int]:
        """The length of each row after counts[b] more positions; ValueError where they don't fit."""
        if len(counts) != len(self.lengths):
            raise ValueError(f"the cache was made for {len(self.lengths)} rows and the input has {len(counts)}")
        ends = [start + count for start, count in zip(self.lengths, counts, strict=True)]
        for row, (start, end) in enumerate(zip(self.lengths, ends, strict=True)):
            if start < 0 or end > self.capacity:
                raise ValueError(
                    f"row {row} goes from {start} to {end} positions and the cache holds 0 to {self.capacity}; "
                    "make a longer one with new_cache(batch, length) or set a smaller length"
                )
            if not self.holds(row, start):
                raise ValueError(
                    f"row {row} was rolled back from {self._tops[row]} to {start} positions, further than the {SPARE} "
                    "that layers with a sliding window keep; set its length to 0 and read it again"
                )
            if start > 0 and self._long[row] != self._turns_long(row, end):
                raise ValueError(
                    f"row {row} holds {start} positions with the angles of another length of text; those beyond "
                    f"{self.long_from} have their own from the start, so set aims[{row}] to the text's new length (or "
                    "None) and its length to 0, and read it again"
                )
        return ends

    def reach(self, ends: list[int]) -> None:
        """Note, before any layer stores them, that new positions up to ends[b] take the place of older ones."""
        for row, (start, end) in enumerate(zip(self.lengths, ends, strict=True)):
            self._tops[row] = end if start == 0 else max(self._tops[row], end)
            self._long[row] = self._turns_long(row, end)

    def commit(self, ends: list[int]) -> None:
        """Count new positions in, up to ends[b], once every layer has stored them."""
        self.lengths[:] = ends

    def angles(self, rope: Rope, head_dim: int, dtype: torch.dtype) -> Angles:
        """The rotary angles of this cache's positions; ValueError for a kind that depends on the length of the text."""
        key = (rope, head_dim, dtype)
        if key not in self._angles:
            device = next(iter(self.k.values())).device
            self._angles[key] = Angles(rope, head_dim, self.capacity, dtype=dtype, device=device)
        return self._angles[key]

    def kept(self, layer: int) -> tuple[Tensor, ...]:
        """The storage of a layer's keys and values, (B, K, S, D) each, and their scales where they are int8."""
        self._require(layer)
        return tuple(storage[layer] for storage in self.storages.values())

    def numbers(self, layer: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The keys and values (B, K, count, D) in the first slots of a layer, in a dtype."""
        kept = self.kept(layer)
        k, v = (each[:, :, :count] for each in kept[:2])
        if len(kept) == 2:
            return k.to(dtype), v.to(dtype)
        scales = (each[:, :, :count, None] for each in kept[2:])
        return tuple((each * scale).to(dtype) for each, scale in zip((k, v), scales, strict=True))  # type: ignore

    def write(self, layer: int, start: int, k: Tensor, v: Tensor) -> None:
        """Store k, v (B, K, T, D) at the positions from `start` of every row; T is at most the layer's slots."""
        self._require(layer)
        slots = self.k[layer].size(2)
        first = start % slots
        fits = min(k.size(2), slots - first)  # what doesn't fit before the last slot goes on at the first
        for stored, new in zip(self.kept(layer), self._as_kept(k, v), strict=True):
            stored[:, :, first : first + fits] = new[:, :, :fits]
            if fits < k.size(2):
                stored[:, :, : k.size(2) - fits] = new[:, :, fits:]

    def scatter(self, layer: int, rows: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v (N, K, D) at N pairs of row and position, no two of which share a slot."""
        self._require(layer)
        slots = positions % self.k[layer].size(2)
        for stored, new in zip(self.kept(layer), self._as_kept(k, v), strict=True):
            stored[rows, :, slots] = new.to(stored.dtype)

    def _as_kept(self, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """New keys and values (..., D) as they are stored, and their scales (...) in int8."""
        if not self.k_scale:
            return k, v
        (k, k_scale), (v, v_scale) = _whole(k), _whole(v)
        return k, v, k_scale, v_scale

    def copy_from(self, other: "KVCache", copies: int = 1) -> None:
        """Take over the rows of `other`, each `copies` times, into this cache of the same layers with as many rows.

        ValueError where the rows don't fit, or where this cache keeps fewer positions of a window than are needed.
        """
        if len(self.lengths) != copies * len(other.lengths) or max(other.lengths) > self.capacity:
            raise ValueError(
                f"{copies} times {len(other.lengths)} rows of up to {max(other.lengths)} positions don't fit into "
                f"{len(self.lengths)} rows of {self.capacity}"
            )
        for layer, keys in self.k.items():
            theirs = other.k[layer].size(2)
            if keys.size(2) == theirs:
                filled = theirs
            elif layer not in self.windows or max(other._tops) <= min(keys.size(2), theirs):
                filled = max(other.lengths)  # nothing has wrapped around: slots are positions
            else:
                raise ValueError("caches whose windows have wrapped around must be of the same size")
            for mine, others in zip(self.kept(layer), other.kept(layer), strict=True):
                mine[:, :, :filled] = others[:, :, :filled].repeat_interleave(copies, dim=0)
        self.lengths[:] = [n for n in other.lengths for _ in range(copies)]
        self._tops[:] = [n for n in other._tops for _ in range(copies)]
        self._long[:] = [long for long in other._long for _ in range(copies)]
        self.aims[:] = [aim for aim in other.aims for _ in range(copies)]

    def emptied(self) -> "KVCache":
        """An empty cache in the storage of this one, which must not be used beside it."""
        for storage in self.storages.values():
            for stored in storage.values():
                stored.zero_()
        fresh = copy(self)
        fresh.lengths, fresh._tops = ([0] * len(self.lengths) for _ in range(2))
        fresh.aims, fresh._long = [None] * len(self.lengths), [False] * len(self.lengths)
        return fresh

    def _require(self, layer: int) -> None:
        if layer not in self.k:
            raise ValueError(
                f"the cache has the layers {list(self.k)}, not {layer}; make one with this part's own new_cache"
            )


def _whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (..., D) as int8 by their largest number, which becomes 127, and scales (...), as the kernels do."""
    x = x.float()
    largest = x.abs().amax(-1) if x.size(-1) else x.new_zeros(x.shape[:-1])
    scale = largest / 127
    inverse = torch.where((scale > 0) & scale.isfinite(), 1 / scale, 0)
    return (x * inverse[..., None]).nan_to_num_(0.0).round_().to(torch.int8), scale
