"""sepweight.json: what a sepweight folder holds. Written last, so its presence says that the folder is complete."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from .dtypes import DTYPE_NAMES, DTYPES, torch_name
from .errors import WeightsError
from .layout import file_section, section_file, split_name
from .safe import read_json
from .spec import MAX_LAYERS

VERSION = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """One tensor in a file: its dtype, shape and the sha256 of its bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file: size in bytes, sha256 of all of it, and its tensors by key."""

    bytes: int
    sha256: str
    tensors: dict[str, TensorRecord]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of sepweight.json; `tied` maps a sectioned name to the one under which the tensor is stored."""

    num_layers: int
    files: dict[str, FileRecord]
    tied: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The file's text, UTF-8."""
        dtypes = {t.dtype for f in self.files.values() for t in f.tensors.values() if t.dtype.is_floating_point}
        value = {
            "format": "sepweight",
            "version": VERSION,
            "num_layers": self.num_layers,
            "dtype": torch_name(dtypes.pop()) if len(dtypes) == 1 else "mixed",
            "quantization": None,
            "tied": self.tied,
            "files": {name: _file_json(record) for name, record in self.files.items()},
        }
        return (json.dumps(value, indent=1) + "\n").encode()


def _file_json(record: FileRecord) -> dict[str, object]:
    tensors = {
        key: {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "sha256": tensor.sha256}
        for key, tensor in record.tensors.items()
    }
    return {"bytes": record.bytes, "sha256": record.sha256, "tensors": tensors}


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`. WeightsError names what is missing or has the wrong type."""
    value = read_json(path)
    if value.get("format") != "sepweight" or value.get("version") != VERSION:
        raise WeightsError(
            f"{path}: must say format 'sepweight', version {VERSION}; perhaps a newer llm_sepweight reads it"
        )
    if value.get("quantization") is not None:
        raise WeightsError(f"{path}: quantized weights need a newer llm_sepweight")
    try:
        return _parse(value)
    except (_FieldError, WeightsError) as error:
        raise WeightsError(f"{path}: {error}") from None


class _FieldError(Exception):
    """A field of the manifest is wrong; `read_manifest` adds the file's name."""


def _parse(value: dict[str, object]) -> Manifest:
    num_layers = _get(value, "num_layers", int)
    if not 0 <= num_layers <= MAX_LAYERS:
        raise _FieldError(f"'num_layers' must be between 0 and {MAX_LAYERS}, not {num_layers}")
    raw_files = _get(value, "files", dict)
    files = {name: _parse_file(name, _get(raw_files, name, dict), num_layers) for name in raw_files}
    raw_tied = _get(value, "tied", dict)
    tied = {name: _get(raw_tied, name, str) for name in raw_tied}
    _check_tied(tied, files)
    return Manifest(num_layers=num_layers, files=files, tied=tied)


def _check_tied(tied: dict[str, str], files: dict[str, FileRecord]) -> None:
    for name, stored in tied.items():
        section, key = split_name(name)
        split_name(stored)
        file = section_file(section)
        if file in files and key in files[file].tensors:
            raise _FieldError(f"'tied' maps {name!r} to {stored!r}, though {file} holds it as well")
        if stored in tied:
            raise _FieldError(f"'tied' maps {name!r} to {stored!r}, which isn't stored either")


def _parse_file(name: str, value: dict[str, object], num_layers: int) -> FileRecord:
    section = file_section(name)
    if section is None or section[1] != ".safetensors" or section[0][1] >= max(num_layers, 1):
        raise _FieldError(
            f"{name[:100]!r} is refused as a file name; "
            "allowed are begin, mid.00000 … (below num_layers) and end, with .safetensors"
        )
    tensors = _get(value, "tensors", dict)
    records = {key: _parse_tensor(_get(tensors, key, dict)) for key in tensors}
    return FileRecord(bytes=_get(value, "bytes", int), sha256=_get_sha256(value), tensors=records)


def _parse_tensor(value: dict[str, object]) -> TensorRecord:
    dtype, shape = _get(value, "dtype", str), _get(value, "shape", list)
    if dtype not in DTYPES:
        raise _FieldError(f"dtype {dtype[:40]!r} isn't known")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise _FieldError(f"shape {str(shape)[:100]} must be a list of non-negative sizes")
    return TensorRecord(dtype=DTYPES[dtype], shape=tuple(shape), sha256=_get_sha256(value))


def _get_sha256(value: dict[str, object]) -> str:
    text = _get(value, "sha256", str)
    if not _SHA256.fullmatch(text):
        raise _FieldError(f"sha256 must be 64 hexadecimal digits, not {text[:80]!r}")
    return text


def _get(value: dict[str, object], key: str, kind: type[_T]) -> _T:
    item = value.get(key)
    if type(item) is not kind:
        raise _FieldError(f"{key[:100]!r} must be of type {kind.__name__}, not {type(item).__name__}")
    return item
