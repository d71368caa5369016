"""Writes one .safetensors file, a tensor at a time, and keeps the checksums that sepweight.json records."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .atomic import atomic_file
from .dtypes import DTYPE_NAMES
from .errors import WeightsError
from .manifest import FileRecord, TensorRecord

# The tensors begin at a multiple of a page, so that one direct read (O_DIRECT) can take a whole layer.
ALIGNMENT = 4096


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A tensor to be written: its dtype and shape are known, `read` brings it when its turn comes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def pending(tensor: Tensor, dtype: torch.dtype | None = None) -> Pending:
    """A tensor that is in memory already, converted to `dtype` when its turn comes if it is a floating one."""
    return Pending(dtype=target_dtype(tensor.dtype, dtype), shape=tuple(tensor.shape), read=lambda: tensor)


def target_dtype(own: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """`wanted` for floating tensors, their own dtype for the others (ids, masks, packed weights)."""
    return wanted if wanted is not None and own.is_floating_point else own


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a .safetensors file atomically. WeightsError when `path` exists and `overwrite` is False."""
    with atomic_file(path, overwrite=overwrite) as file:
        write_file(file, {key: pending(tensor) for key, tensor in tensors.items()}, Path(path), metadata=metadata)


def write_file(
    file: BinaryIO, tensors: Mapping[str, Pending], path: Path, *, metadata: Mapping[str, str] | None = None
) -> FileRecord:
    """Writes the format to `file` with one tensor in memory; `path` is for messages. Returns sizes and checksums."""
    # Wider dtypes first keeps every tensor aligned to its own size.
    order = sorted(tensors, key=lambda key: -tensors[key].dtype.itemsize)
    header = _header(order, tensors, path, metadata)
    digest = hashlib.sha256(header)
    file.write(header)
    records: dict[str, TensorRecord] = {}
    size = len(header)
    for key in order:
        item = tensors[key]
        data = _bytes(item, key, path)
        file.write(data)
        digest.update(data)
        size += len(data)
        records[key] = TensorRecord(dtype=item.dtype, shape=item.shape, sha256=hashlib.sha256(data).hexdigest())
    return FileRecord(bytes=size, sha256=digest.hexdigest(), tensors=records)


def _header(order: list[str], tensors: Mapping[str, Pending], path: Path, metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for key in order:
        item = tensors[key]
        if item.dtype not in DTYPE_NAMES or key == "__metadata__":
            raise WeightsError(
                f"{path}: {key!r} of {item.dtype} can't be stored; known are {', '.join(DTYPE_NAMES.values())}"
            )
        span = [offset, offset := offset + item.nbytes]
        entries[key] = {"dtype": DTYPE_NAMES[item.dtype], "shape": list(item.shape), "data_offsets": span}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _bytes(item: Pending, key: str, path: Path) -> memoryview:
    tensor = item.read().detach()
    if tuple(tensor.shape) != item.shape:
        raise WeightsError(f"{path}: {key!r} changed its shape while it was written")
    tensor = tensor.to(device="cpu", dtype=item.dtype).contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().data
