"""Memory for large results that come and go by the hundred, such as those of a step of training on the CPU.

The C library's heap keeps holes between tensors that stay and tensors that go: half a gigabyte of them in training a
model of 160M parameters (measured). Here what a tensor leaves is taken by the next one, in huge pages where the system
has them.
"""

import math
import mmap
import sys
import threading
import weakref
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

CHUNK = 2**30  # bytes of address space, of which the system gives what is used
SMALLEST = 2**18  # bytes of a tensor, below which the heap serves well
PAGE = 2**12


class Workspace:
    """A region of memory that tensors are cut from. A piece is given back when the last tensor in it is gone."""

    def __init__(self) -> None:
        self._chunks: list[memoryview] = []
        self._free: list[tuple[int, int, int]] = []  # chunk, start and end of what is free, in order
        self._returned: deque[tuple[int, int, int]] = deque()  # a tensor may end in any thread, at any time

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A contiguous tensor on the CPU that holds anything."""
        count = math.prod(shape)
        size = -(-count * dtype.itemsize // PAGE) * PAGE
        while self._returned:
            self._give_back(*self._returned.popleft())
        index, start = self._take(size)
        piece = self._chunks[index][start : start + size]
        weakref.finalize(piece, self._returned.append, (index, start, start + size)).atexit = False
        return torch.frombuffer(piece, dtype=dtype, count=count).view(tuple(shape))

    def _take(self, size: int) -> tuple[int, int]:
        """The smallest free piece that is large enough, or its beginning."""
        fitting = [(end - start, place) for place, (_, start, end) in enumerate(self._free) if end - start >= size]
        if not fitting:
            self._grow(size)
            return self._take(size)
        index, start, end = self._free.pop(min(fitting)[1])
        if end - start > size:
            insort(self._free, (index, start + size, end))
        return index, start

    def _give_back(self, index: int, start: int, end: int) -> None:
        """Add a piece to what is free, as one with its neighbours."""
        for each in [each for each in self._free if each[0] == index and (each[1] == end or each[2] == start)]:
            self._free.remove(each)
            start, end = min(start, each[1]), max(end, each[2])
        insort(self._free, (index, start, end))

    def _grow(self, size: int) -> None:
        chunk = _reserved(max(size, CHUNK))
        self._free.append((len(self._chunks), 0, len(chunk)))
        self._chunks.append(chunk)


class _Here(threading.local):
    workspace: Workspace | None = None


_here = _Here()


@contextmanager
def using() -> Iterator[Workspace]:
    """A block in which `empty` of this thread takes large tensors from one workspace.

    Its memory goes back to the system when the block has ended and no tensor in it is left.
    """
    before, _here.workspace = _here.workspace, Workspace()
    try:
        yield _here.workspace
    finally:
        _here.workspace = before


def in_use() -> bool:
    """Whether this thread has a workspace now, and nothing is being compiled, which lays out memory by itself."""
    return _here.workspace is not None and not torch.compiler.is_compiling()


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """A tensor that holds anything: `torch.empty`, or a piece of the workspace for large ones on the CPU."""
    large = math.prod(shape) * dtype.itemsize >= SMALLEST
    if not large or (device is not None and device.type != "cpu") or not in_use():
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    assert _here.workspace is not None
    return _here.workspace.empty(shape, dtype)


def _reserved(size: int) -> memoryview:
    """Zeros that take memory as they are written, in huge pages where the system has them."""
    if sys.platform == "win32":
        return memoryview(mmap.mmap(-1, size))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux; advice alone: where it isn't taken, nothing is lost
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)
