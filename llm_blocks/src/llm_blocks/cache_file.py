"""A cache in a safetensors file: what is used of it is written, and a file from others is checked before it is read.

Shapes: B batch, K kv heads, S slots, D head size.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from llm_blocks.cache import SPARE, KVCache
from llm_sepweight import WeightsError
from llm_sepweight.atomic import atomic_file
from llm_sepweight.formats.safetensors_file import SafetensorsFile
from llm_sepweight.safe import parse_json
from llm_sepweight.stored import Pending, write_file

VERSION = 1
KEY = "kv_cache"  # of the header's metadata: a JSON object
MOST_ROWS = 2**16


def write_cache(
    path: str | Path,
    cache: KVCache,
    *,
    lengths: list[int] | None = None,
    extra: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the first lengths[b] positions of each row, by default all that it holds, to the new file `path`.

    `extra` tensors and `metadata` go along. The file appears whole or not at all, and takes the place of another with
    `overwrite`. ValueError for a row that no longer holds so many positions, WeightsError where `path` is taken.
    """
    path = Path(path)
    lengths = list(cache.lengths if lengths is None else lengths)
    for row, length in enumerate(lengths):
        if not 0 <= length <= cache.lengths[row] or not cache.holds(row, length):
            raise ValueError(
                f"row {row} of the cache doesn't hold its first {length} positions, so they can't be written"
            )
    tops = _tops(cache, lengths)
    tensors = {f"extra.{name}": _pending(tensor) for name, tensor in (extra or {}).items()}
    for name, storage in cache.storages.items():
        for layer, tensor in storage.items():
            tensors[f"{name}.{layer}"] = _pending(tensor[:, :, : _filled(cache, layer, lengths, tops)])
    described = {"version": VERSION, "lengths": lengths, "tops": tops, "long": cache._long}
    header = {**(metadata or {}), KEY: json.dumps(described)}
    with atomic_file(path, overwrite=overwrite) as file:
        write_file(file, tensors, path, metadata=header)


class CacheFile:
    """A file that `write_cache` made, open for reading; use it in a `with` block.

    Opening reads the header alone. WeightsError for anything that isn't such a file, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = SafetensorsFile(self.path)
        self.metadata: dict[str, str] = self._file.metadata
        if KEY not in self.metadata:
            raise WeightsError(f"{self.path}: holds no keys and values of a model, but something else")
        self._said = parse_json(self.metadata[KEY].encode(), self.path)
        if self._said.get("version") != VERSION:
            version = str(self._said.get("version"))[:40]
            raise WeightsError(f"{self.path}: written in version {version} of the format, and this one reads {VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def extra(self, name: str, *, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> Tensor | None:
        """An extra tensor, None where there is none; WeightsError unless it has this shape and one of these dtypes."""
        key = f"extra.{name}"
        if key not in self._file.infos:
            return None
        self._check(key, shape, dtypes)
        return self._read(key)

    def cache(self, model: Any, *, limit: int) -> KVCache:
        """A new cache of `model` with the file's rows, of at most `limit` positions, and hardly room for more.

        Everything is compared with the model's own cache before any memory is taken. WeightsError for other layers,
        shapes or dtypes, for lengths that can't be, and for keys or values that aren't finite.
        """
        lengths, tops, long = self._rows(limit)
        capacity = max(1, *tops)
        like = model.new_cache(len(lengths), capacity, device="meta")
        wanted: dict[str, Tensor] = {}
        for name, storage in like.storages.items():
            for layer, tensor in storage.items():
                wanted[f"{name}.{layer}"] = tensor[:, :, : _filled(like, layer, lengths, tops)]
        for key, tensor in wanted.items():
            self._check(key, tuple(tensor.shape), (tensor.dtype,))
        more = next((key for key in self._file.infos if key not in wanted and not key.startswith("extra.")), None)
        if more is not None:
            raise WeightsError(f"{self.path}: {more[:200]!r} is nothing that the cache of this model has")
        cache = model.new_cache(len(lengths), capacity)
        for name, storage in cache.storages.items():
            for layer, tensor in storage.items():
                read = self._read(f"{name}.{layer}")
                tensor[:, :, : read.size(2)] = read
        cache.lengths[:], cache._tops[:], cache._long[:] = lengths, tops, long
        if not all(cache.holds(row, length) for row, length in enumerate(lengths)):
            raise WeightsError(f"{self.path}: its windows have gone on too far to be used")
        return cache

    def _rows(self, limit: int) -> tuple[list[int], list[int], list[bool]]:
        """Lengths, tops and angles of the rows, as far as they can be."""
        lengths, tops, long = (self._said.get(name) for name in ("lengths", "tops", "long"))
        if not (isinstance(lengths, list) and isinstance(tops, list) and isinstance(long, list)):
            raise WeightsError(f"{self.path}: doesn't say which positions it holds")
        rows = list(zip(lengths, tops, long, strict=False))
        if not 1 <= len(rows) <= MOST_ROWS or not len(lengths) == len(tops) == len(long):
            raise WeightsError(f"{self.path}: must say of 1 to {MOST_ROWS} rows how long each is")
        for length, top, turned in rows:
            if type(length) is not int or type(top) is not int or type(turned) is not bool:
                raise WeightsError(f"{self.path}: the length of a row must be a whole number")
            if not 0 <= length <= limit or not length <= top <= length + SPARE + 1:
                raise WeightsError(f"{self.path}: a row of {length} positions can't be, the model has 0 to {limit}")
        return lengths, tops, long

    def _check(self, key: str, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
        info = self._file.infos.get(key)
        if info is None:
            raise WeightsError(f"{self.path}: lacks {key!r}, which a cache of this model has")
        if info.shape != shape or info.dtype not in dtypes:
            known = " or ".join(map(str, dtypes))
            raise WeightsError(
                f"{self.path}: {key!r} is {info.dtype} of shape {info.shape}, and this model has {known} of {shape}"
            )

    def _read(self, key: str) -> Tensor:
        info = self._file.infos[key]
        tensor = torch.empty(info.shape, dtype=info.dtype)
        self._file.read_into(key, tensor)  # no map: a file that shrinks meanwhile is an error and no crash
        if tensor.numel() and info.dtype.is_floating_point and not _is_finite(tensor):
            raise WeightsError(f"{self.path}: {key!r} holds numbers that aren't finite")
        return tensor


def _tops(cache: KVCache, lengths: list[int]) -> list[int]:
    """The tops of rows of which a window has forgotten positions; what lies beyond another row's length is nothing."""
    least = min((cache.slots(window) for window in cache.windows.values()), default=cache.capacity)
    return [top if top > least else length for top, length in zip(cache._tops, lengths, strict=True)]


def _filled(cache: KVCache, layer: int, lengths: list[int], tops: list[int]) -> int:
    """How many slots of a layer are in use: the first ones, or all where a window has wrapped around."""
    window = cache.windows.get(layer)
    slots = cache.slots(window)
    return slots if window is not None and max(tops) > slots else max(lengths)


def _pending(tensor: Tensor) -> Pending:
    return Pending(dtype=tensor.dtype, shape=tuple(tensor.shape), read=lambda: tensor)


def _is_finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
