"""What the reader asks of a file of tensors, whatever its format."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """A tensor as its file describes it: shape, dtype, the file, and its size in bytes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    nbytes: int


class TensorFile(ABC):
    """An open file of named tensors; `infos` is known without reading any of them."""

    path: Path
    infos: Mapping[str, TensorInfo]

    @property
    def tied(self) -> Mapping[str, str]:
        """Names in this file that are the same memory as another name in it."""
        return {}

    @abstractmethod
    def view(self, key: str) -> Tensor:
        """The tensor on the CPU, mapped from the file where the format allows it; writes to it never reach the file."""

    @abstractmethod
    def read_into(self, key: str, out: Tensor) -> None:
        """Fills `out` (same shape, any dtype and device) without a second buffer of that size on the CPU."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the file; tensors that were handed out stay valid."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint on disk: `entries` maps each name to the file and the key that hold it."""

    layout: str
    path: Path
    entries: dict[str, tuple[TensorFile, str]]
    sectioned: bool = False  # names are begin.…, mid.N.…, end.… already
    tied: dict[str, str] = field(default_factory=dict)
    num_layers: int | None = None  # None: counted from the names
    dropped: tuple[str, ...] = ()  # the file's names that the decider left out
