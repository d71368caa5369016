"""The keys and values that a model has seen. Shapes: B batch, K kv heads, S cache length, D head size, T time."""

from collections.abc import Iterable

import torch
from torch import Tensor


class KVCache:
    """Keys and values of some layers in fixed storage (B, K, S, D) each; the rows may differ in length.

    `lengths[b]` on the host says how many positions of row b are valid. Rolling back is setting a smaller length:
    what lies beyond is never seen and is written over. `k` and `v` map an absolute layer number to its storage.
    """

    def __init__(
        self,
        layers: Iterable[int],
        *,
        batch: int,
        num_kv_heads: int,
        length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        if batch < 1 or length < 1:
            raise ValueError(f"a cache needs at least one row and one position, got batch={batch}, length={length}")
        shape = (batch, num_kv_heads, length, head_dim)
        layers = tuple(layers)
        # zeros, not empty: a masked slot still enters the products of attention, and 0 * nan is nan
        self.k = {layer: torch.zeros(shape, dtype=dtype, device=device) for layer in layers}
        self.v = {layer: torch.zeros(shape, dtype=dtype, device=device) for layer in layers}
        self.lengths = [0] * batch
        self.capacity = length

    def truncate(self, length: int) -> None:
        """Roll every row back to at most `length` positions."""
        if length < 0:
            raise ValueError(f"a row can't be shorter than 0 positions, got {length}")
        self.lengths[:] = [min(n, length) for n in self.lengths]

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
        return ends

    def write(self, layer: int, slots: slice, k: Tensor, v: Tensor) -> None:
        """Store k, v (B, K, T, D) at the same slots of every row."""
        self._require(layer)
        self.k[layer][:, :, slots] = k
        self.v[layer][:, :, slots] = v

    def scatter(self, layer: int, rows: Tensor, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k, v (N, K, D) at N pairs of row and slot."""
        self._require(layer)
        self.k[layer][rows, :, slots] = k.to(self.k[layer].dtype)
        self.v[layer][rows, :, slots] = v.to(self.v[layer].dtype)

    def _require(self, layer: int) -> None:
        if layer not in self.k:
            raise ValueError(
                f"the cache has the layers {list(self.k)}, not {layer}; make one with this part's own new_cache"
            )
