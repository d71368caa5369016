"""Weights that are mapped from files, put into huge pages where they are (Linux).

A file is mapped in pages of 4 KiB, and a processor that reads gigabytes of them for each token spends a tenth of its
time finding them. Their bytes are copied into anonymous memory in huge pages, which then takes the place of the mapping
at the same addresses (mremap(2)): every tensor, and every address that was noted of one, stays as it is. Threads that
read meanwhile see the same bytes before and after; nobody may write.
"""

import ctypes
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_quant.memory import HUGE_PAGE, MADV_HUGEPAGE

PIECE = 64 * 2**20
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MAPS = Path("/proc/self/maps")

# as Linux has them on every processor that we know of
_READ_WRITE, _PRIVATE_ANONYMOUS, _FIXED, _NORESERVE = 3, 0x22, 0x10, 0x4000
_MAYMOVE_FIXED = 3
_FAILED = ctypes.c_void_p(-1).value


def offered() -> bool:
    """Whether this system gives huge pages to who asks for them (Transparent Huge Pages on Linux)."""
    try:
        return "[never]" not in SETTING.read_text()
    except OSError:
        return False


class HugePages:
    """Moves those of some CPU tensors that are privately mapped from files into huge pages, PIECE bytes at a time.

    What lies beside them in the same huge page moves with them. Where there is nothing to do, or the system has no huge
    pages, `left` is 0 from the beginning.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = [each.detach() for each in tensors if each.device.type == "cpu"]  # so that they stay mapped
        found = _spans(self._tensors) if offered() else []
        self._pieces = [(at, min(PIECE, end - at)) for start, end in found for at in range(start, end, PIECE)]
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes that are still to be moved."""
        return sum(size for _, size in self._pieces)

    def move(self) -> bool:
        """Move the next piece; False where there is none left, or no memory for it, which is the end of it."""
        with self._lock:
            moved = bool(self._pieces) and _move(*self._pieces.pop(0))
            if not moved:
                self._pieces.clear()
            if not self._pieces:
                self._tensors.clear()
            return moved


def _spans(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """The addresses (start, end) of the whole huge pages with these tensors that are mapped from files, in order."""
    files = _mapped_files() if tensors else []
    spans: list[tuple[int, int]] = []
    for tensor in sorted(tensors, key=Tensor.data_ptr):
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        for low, high in files:
            if max(first, low) >= min(last, high):
                continue
            start, end = max(_down(first), _up(low)), min(_up(last), _down(high))
            if spans and start <= spans[-1][1]:
                start, end = spans[-1][0], max(spans.pop()[1], end)
            if start < end:
                spans.append((start, end))
    return spans


def _mapped_files() -> list[tuple[int, int]]:
    """The addresses (low, high) of every private mapping of a file."""
    found: list[tuple[int, int]] = []
    for line in MAPS.read_text().splitlines():
        addresses, permissions, _, _, inode = line.split(maxsplit=5)[:5]
        if permissions[0] == "r" and permissions[3] == "p" and inode != "0":
            low, high = (int(each, 16) for each in addresses.split("-"))
            found.append((low, high))
    return found


def _move(start: int, size: int) -> bool:
    """Put whole huge pages of anonymous memory with the same bytes in the place of these; whether that went well."""
    fresh = _fresh(size)
    if fresh is None:
        return False
    _bytes(fresh, size).copy_(_bytes(start, size))
    if _libc().mremap(fresh, size, size, _MAYMOVE_FIXED, start) == start:
        return True
    if _still_mapped(start, size):
        _libc().munmap(fresh, size)
        return False
    # The system let go of what was there before it failed, so the bytes are put back by hand.
    _libc().mmap(start, size, _READ_WRITE, _PRIVATE_ANONYMOUS | _NORESERVE | _FIXED, -1, 0)
    _bytes(start, size).copy_(_bytes(fresh, size))
    _libc().munmap(fresh, size)
    return False


def _still_mapped(start: int, size: int) -> bool:
    """Whether files are mapped at all of these addresses."""
    end = start + size
    return sum(max(0, min(high, end) - max(low, start)) for low, high in _mapped_files()) == size


def _fresh(size: int) -> int | None:
    """The address of new memory that begins at a huge page; None where there is none."""
    whole = size + HUGE_PAGE
    low = _libc().mmap(None, whole, _READ_WRITE, _PRIVATE_ANONYMOUS | _NORESERVE, -1, 0)
    if low in (None, _FAILED):
        return None
    start = _up(low)
    for edge, end in ((low, start), (start + size, low + whole)):
        if edge < end:
            _libc().munmap(edge, end - edge)
    _libc().madvise(start, size, MADV_HUGEPAGE)
    return start


def _bytes(address: int, size: int) -> Tensor:
    """The memory at an address; torch copies it with all its threads."""
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8)


def _down(address: int) -> int:
    return address // HUGE_PAGE * HUGE_PAGE


def _up(address: int) -> int:
    return -(-address // HUGE_PAGE) * HUGE_PAGE


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes, libc.mmap.restype = (pointer, size, number, number, number, ctypes.c_long), pointer
    libc.mremap.argtypes, libc.mremap.restype = (pointer, size, size, number, pointer), pointer
    libc.munmap.argtypes = (pointer, size)
    libc.madvise.argtypes = (pointer, size, number)
    return libc
