"""A .safetensors file: header checked when opened, tensors mapped or read straight into a buffer.

Format: https://github.com/huggingface/safetensors#format. An 8-byte little-endian length, a JSON header of that length,
then the bytes of the tensors without holes.
"""

import math
import mmap
import os
import sys
from io import FileIO
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..dtypes import DTYPES
from ..errors import WeightsError
from ..safe import open_file, parse_json, refuse_pointer
from .base import TensorFile, TensorInfo

MAX_HEADER_BYTES = 100_000_000  # the format's own limit

_MAP_NORESERVE = 0x4000  # Linux; named in the mmap module only from Python 3.13 on
_PIECE = 2**22  # numbers to convert at a time
_CHUNK = 2**30  # one read call on Linux returns at most 2 GiB


class SafetensorsFile(TensorFile):
    """An open .safetensors file. WeightsError when the header is malformed or the size isn't what it promises.

    `metadata` is what its header says beside the tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_file(path) as file:
            self._identity = _identity(file)
            self.infos, self._offsets, self.metadata = _read_header(file, path)
        self._map: mmap.mmap | None = None

    def view(self, key: str) -> Tensor:
        info, offset = self.infos[key], self._offsets[key]
        if info.nbytes == 0:
            return torch.empty(info.shape, dtype=info.dtype)
        if self._map is None:
            with self._reopen() as file:
                self._map = _map_privately(file)
        if offset % info.dtype.itemsize or info.dtype == torch.bool:
            return self._copy(key)  # torch wants aligned values, and 0 or 1 in a bool
        data = torch.frombuffer(self._map, dtype=torch.uint8, count=info.nbytes, offset=offset)
        return data.view(info.dtype).reshape(info.shape)

    def _copy(self, key: str) -> Tensor:
        info = self.infos[key]
        out = torch.empty(info.shape, dtype=info.dtype)
        self._fill(out, self._offsets[key])
        return out.view(torch.uint8).ne(0) if info.dtype == torch.bool else out

    def read_into(self, key: str, out: Tensor) -> None:
        info = self.infos[key]
        if not info.nbytes or info.dtype == torch.bool or not out.is_contiguous():
            out.copy_(self.view(key))
        elif out.dtype == info.dtype and out.device.type == "cpu":
            self._fill(out, self._offsets[key])
        else:
            self._convert(info, out, self._offsets[key])

    def _convert(self, info: TensorInfo, out: Tensor, offset: int) -> None:
        """Fills `out` piece by piece: pages of a map would count as memory of this process until they are needed."""
        buffer = torch.empty(min(out.numel(), _PIECE), dtype=info.dtype)
        for part in out.view(-1).split(_PIECE):
            piece = buffer[: part.numel()]
            self._fill(piece, offset)
            part.copy_(piece)
            offset += piece.nbytes

    def _fill(self, out: Tensor, offset: int) -> None:
        """Reads from `offset` straight into the memory of `out`: large reads are much faster than page faults."""
        target = out.reshape(-1).view(torch.uint8).numpy().data
        with self._reopen() as file:
            file.seek(offset)
            while target:
                count = file.readinto(target[:_CHUNK])
                if not count:
                    raise WeightsError(f"{self.path}: became shorter while it was read")
                target = target[count:]

    def _reopen(self) -> FileIO:
        # Unbuffered and opened anew for each read, so that several threads may read one file.
        file = open_file(self.path)
        if _identity(file) != self._identity:
            file.close()
            raise WeightsError(f"{self.path}: changed since it was opened; open the checkpoint again")
        return file

    def close(self) -> None:
        # Only dropped, never closed: tensors that were handed out keep the map alive.
        self._map = None


def _identity(file: FileIO) -> tuple[int, int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _map_privately(file: FileIO) -> mmap.mmap:
    """The whole file in memory on demand, copied on write."""
    if sys.platform == "linux":  # no reservation: the file may be larger than the memory
        flags, protection = mmap.MAP_PRIVATE | _MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=protection)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _read_header(file: FileIO, path: Path) -> tuple[dict[str, TensorInfo], dict[str, int], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or (length <= MAX_HEADER_BYTES and 8 + length > size):
        raise WeightsError(f"{path}: truncated within the header ({size} bytes)")
    if length > MAX_HEADER_BYTES:
        refuse_pointer(prefix + file.read(32), path)
        raise WeightsError(f"{path}: no safetensors file, its header would have {length} bytes")
    header = parse_json(file.read(length), path)
    metadata = header.pop("__metadata__", None)
    infos: dict[str, TensorInfo] = {}
    offsets: dict[str, int] = {}
    for key, entry in header.items():
        infos[key], begin = _parse_entry(key, entry, path)
        offsets[key] = 8 + length + begin
    _check_size(infos, offsets, size, path)
    _check_rules(path)  # also that the metadata is an object of strings
    return infos, offsets, metadata if isinstance(metadata, dict) else {}


def _parse_entry(key: str, entry: object, path: Path) -> tuple[TensorInfo, int]:
    where = f"{path}: tensor {key[:200]!r}"
    if not isinstance(entry, dict):
        raise WeightsError(f"{where}: its header entry must be an object")
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{where}: dtype {str(dtype)[:40]!r} isn't supported; known are {', '.join(DTYPES)}")
    if not _are_counts(shape) or math.prod(max(size, 1) for size in shape) >= 2**62:
        raise WeightsError(f"{where}: shape must be a list of non-negative sizes")
    if not _are_counts(span) or len(span) != 2:
        raise WeightsError(f"{where}: data_offsets must be two byte positions")
    torch_dtype, nbytes = DTYPES[dtype], span[1] - span[0]
    if nbytes != math.prod(shape) * torch_dtype.itemsize:
        raise WeightsError(f"{where}: shape {shape} of {dtype} doesn't take {nbytes} bytes, as data_offsets say")
    return TensorInfo(shape=tuple(shape), dtype=torch_dtype, file=path, nbytes=nbytes), span[0]


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_size(infos: dict[str, TensorInfo], offsets: dict[str, int], size: int, path: Path) -> None:
    if infos:
        last = max(infos, key=lambda key: offsets[key] + infos[key].nbytes)
        end = offsets[last] + infos[last].nbytes
        if end > size:
            beyond = (key for key in infos if offsets[key] + infos[key].nbytes > size)
            cut = min(beyond, key=lambda key: offsets[key])[:200]
            raise WeightsError(f"{path}: truncated, it has {size} of {end} bytes; the first tensor cut off is {cut!r}")


def _check_rules(path: Path) -> None:
    """The format's remaining rules (no holes, no overlaps, nothing after the end) are the library's to check."""
    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise WeightsError(f"{path}: breaks a rule of the safetensors format ({error})") from None
