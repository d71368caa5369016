"""Memory for weights that are read from end to end for every token."""

import ctypes
import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 64 * 2**20
HUGE_PAGE = 2 * 2**20
MADV_HUGEPAGE = 14  # madvise(2)
_ALIGNED = 64


class Arena:
    """CPU tensors side by side in huge pages, where the system has them to give (Linux).

    Reading weights in pages of 4 KiB, a processor spends up to a quarter of its time finding them (measured: 24 GB/s
    against 30 GB/s). A chunk is given back when no tensor in it is left.
    """

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor that holds anything."""
        size = math.prod(shape) * dtype.itemsize
        if size > self._free.numel():
            self._free = _huge(max(size, CHUNK))
        found = self._free[:size].view(dtype).view(torch.Size(shape))
        self._free = self._free[-(-size // _ALIGNED) * _ALIGNED :]
        return found

    def copy(self, x: Tensor) -> Tensor:
        """A contiguous tensor with the same numbers."""
        return self.empty(x.shape, x.dtype).copy_(x)


def give_back() -> None:
    """Let the system have the memory that is free, where the C library can do so (glibc).

    Of large tensors that come and go it keeps hold of what lies below a small one that stays: hundreds of megabytes
    where layers are rounded one after the other.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _huge(size: int) -> Tensor:
    """Bytes that begin at a huge page."""
    memory = torch.empty(size + HUGE_PAGE, dtype=torch.uint8)
    skipped = -memory.data_ptr() % HUGE_PAGE
    if sys.platform == "linux":  # advice alone: where it isn't taken, nothing is lost
        start = ctypes.c_void_p(memory.data_ptr() + skipped)
        ctypes.CDLL(None).madvise(start, ctypes.c_size_t(size), MADV_HUGEPAGE)
    return memory[skipped : skipped + size]
