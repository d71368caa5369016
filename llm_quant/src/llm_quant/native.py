"""The compiled kernels: found, joined to the threads that torch has, and called by address."""

import ctypes
import ctypes.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

INT8, INT4, BF16, BIT4 = range(4)
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3, torch.uint8: 3}
LEVELS = ("avx512", "avx2", "neon_bf16", "neon_dot", "neon", "portable")
MANY = ("avx512",)  # levels with products of many rows
BIT4_LEVELS = ("avx512",)  # levels with products of nf4 and fp4
INTERFACE = 4  # what entry.c has
OFF = "off"

_FILE = Path(__file__).with_name("_kernels.so")
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_WEIGHT = (_POINTER, _POINTER, _INT, _POINTER)  # weight, scale, scale_type, zero
_LINEAR = (_INT, _LONG, _LONG, _LONG, *_WEIGHT, _POINTER, _POINTER, _POINTER, _LONG, _INT, _INT)
_NORM = (_POINTER, _POINTER, _POINTER, _LONG, _LONG, ctypes.c_float, _INT, _INT)
_GATED = (_POINTER, _POINTER, _POINTER, _LONG, _INT)
_RUN = (_POINTER, _LONG, _POINTER, _POINTER, _INT)
_WHOLE4 = (_POINTER, _POINTER, _INT, _POINTER, _LONG, _LONG, _POINTER, _INT, _INT)
_ROUND4 = (_POINTER, _INT, _LONG, _POINTER, _POINTER, _POINTER, _POINTER, _INT)
_EXPAND = (_INT, _LONG, _LONG, *_WEIGHT, _LONG, _LONG, _POINTER, _INT, _INT)


class KernelsError(RuntimeError):
    """The kernels can't be used; the message says why."""


def level() -> str | None:
    """The instructions that the kernels use, of `LEVELS`, or None where torch's operators serve."""
    library = _library()
    return None if isinstance(library, str) else library.level


def reason() -> str | None:
    """Why there are no kernels here, in words; None where there are."""
    found = _library()
    return found if isinstance(found, str) else None


def choose(name: str | None) -> str:
    """Use the named instructions of `LEVELS` from now on, by default those that LLM_KERNELS names, or the best.

    Gives the name. KernelsError where there are no kernels, ValueError for a level that the processor lacks.
    """
    wanted = name or os.environ.get("LLM_KERNELS") or None
    if not _required().choose(wanted):
        raise ValueError(f"this processor has no level {wanted!r} of kernels; there are {', '.join(LEVELS)}")
    return _required().level


@cache
def has_amx() -> bool:
    """Whether torch's own products of bf16 have instructions of the processor that the kernels don't use."""
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))


def takes_many() -> bool:
    """Whether the kernels are the faster ones for any number of rows of x too, beside torch's product of bf16."""
    return level() in MANY and not has_amx()


def linear(
    x: Tensor,
    weight: Tensor,
    *,
    kind: int,
    n: int,
    group: int,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """x (M, K) times the N rows of a weight in blocks (kernels.h has the layout): (M, N) in the dtype of x.

    x is contiguous and fp32 or bf16; bias is fp32 (N,).
    """
    m, k = x.shape
    y = x.new_empty(m, n)
    failed = _required().linear(
        kind,
        n,
        k,
        group,
        weight.data_ptr(),
        0 if scale is None else scale.data_ptr(),
        0 if scale is None else TYPES[scale.dtype],
        0 if zero is None else zero.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        m,
        TYPES[x.dtype],
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError("there is no memory for the rounded activations")
    return y


def expand(
    weight: Tensor,
    *,
    kind: int,
    k: int,
    group: int,
    scale: Tensor,
    zero: Tensor | None,
    blocks: range,
    out: Tensor,
) -> None:
    """The numbers of some blocks of a weight, 16 rows each, as rows (16 * blocks, K) of `out`, fp32 or bf16."""
    _required().expand(
        kind,
        k,
        group,
        weight.data_ptr(),
        scale.data_ptr(),
        TYPES[scale.dtype],
        0 if zero is None else zero.data_ptr(),
        blocks.start,
        blocks.stop,
        out.data_ptr(),
        TYPES[out.dtype],
        torch.get_num_threads(),
    )


def whole4(value: Tensor, scale: Tensor, tables: Tensor, first: int, out: Tensor) -> None:
    """Numbers of nf4 or fp4 (kernels.h), as many as `out` has, fp32 or bf16; those before are `first`, whole groups."""
    pointers = value.data_ptr(), scale.data_ptr(), TYPES[scale.dtype], tables.data_ptr()
    threads = torch.get_num_threads() if out.numel() >= least_work() else 1
    _required().whole4(*pointers, first, out.numel(), out.data_ptr(), TYPES[out.dtype], threads)


def round4(x: Tensor, bounds: Tensor, order: Tensor, value: Tensor, scale: Tensor) -> None:
    """Round x, fp32 or bf16 and contiguous, to `value` and `scale`: `order` (16,) int32 of how many bounds (15,)."""
    pointers = bounds.data_ptr(), order.data_ptr(), value.data_ptr(), scale.data_ptr()
    _required().round4(x.data_ptr(), TYPES[x.dtype], x.numel(), *pointers, torch.get_num_threads())


def norm(x: Tensor, weight: Tensor, eps: float, *, offset: bool) -> Tensor:
    """x (M, C) / rms(x) * weight (C,) by rows, contiguous and of one dtype; with `offset` the weight is 1 + weight."""
    y = torch.empty_like(x)
    m, c = x.shape
    pointers = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    _required().norm(*pointers, m, c, eps, offset, TYPES[x.dtype])
    return y


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, contiguous and of one dtype."""
    y = torch.empty_like(gate)
    _required().gated(gate.data_ptr(), up.data_ptr(), y.data_ptr(), gate.numel(), TYPES[gate.dtype])
    return y


def run(ops: Any, count: int, starts: Any, ends: Any, threads: int) -> None:
    """Compute `count` operations (operations.Op) for rows whose new positions are starts[b] to ends[b], exclusive."""
    if _required().run(ops, count, starts, ends, threads):
        raise MemoryError("there is no memory for the rounded activations")


def least_work() -> int:
    """How many numbers or weights an operation must read for more than one thread to be worth waking."""
    return _required().least_work


def attend_scratch(op: Any) -> int:
    """How many fp32 numbers of scratch an attention needs."""
    return _required().scratch(op)


class _Library:
    """The loaded library; raises OSError where it can't be."""

    def __init__(self, file: Path) -> None:
        functions = ctypes.CDLL(str(file))
        try:
            interface = _LONG.in_dll(functions, "llm_quant_interface").value
        except ValueError:  # there is none in it
            interface = 1
        if interface != INTERFACE:
            raise OSError("it was built from other sources; install llm_quant again")
        self.level = ""
        self._choose, self._choose.argtypes = functions.llm_quant_level, (ctypes.c_char_p,)
        self._choose.restype = ctypes.c_char_p
        self.linear, self.linear.argtypes, self.linear.restype = functions.llm_quant_linear, _LINEAR, _INT
        self.expand, self.expand.argtypes, self.expand.restype = functions.llm_quant_expand, _EXPAND, None
        self.whole4, self.whole4.argtypes, self.whole4.restype = functions.llm_quant_whole4, _WHOLE4, None
        self.round4, self.round4.argtypes, self.round4.restype = functions.llm_quant_round4, _ROUND4, None
        self.norm, self.norm.argtypes, self.norm.restype = functions.llm_quant_norm, _NORM, None
        self.gated, self.gated.argtypes, self.gated.restype = functions.llm_quant_gated, _GATED, None
        self.run, self.run.argtypes, self.run.restype = functions.llm_quant_run, _RUN, _INT
        self.scratch, self.scratch.argtypes = functions.llm_quant_attend_scratch, (_POINTER,)
        self.scratch.restype = _LONG
        self.least_work = _LONG.in_dll(functions, "llm_quant_least_work").value

    def choose(self, name: str | None) -> bool:
        """Use that level, or for None the best; whether the processor has it."""
        found = self._choose(name.encode() if name else None)
        self.level = found.decode() if found else self.level
        return found is not None


def _required() -> _Library:
    found = _library()
    if isinstance(found, str):
        raise KernelsError(f"there are no kernels: {found}")
    return found


@cache
def _library() -> _Library | str:
    """The library, its best level chosen; or why there is none."""
    wanted = os.environ.get("LLM_KERNELS", "").lower()
    if wanted == OFF:
        return "LLM_KERNELS=off"
    file = Path(os.environ.get("LLM_KERNELS_LIBRARY") or _FILE)
    if not file.exists():
        return "they were not compiled; install llm_quant where there is a C compiler"
    try:
        _join_threads()
        library = _Library(file)
    except OSError as error:
        return f"{file.name} can't be loaded: {error}"
    if not library.choose(wanted or None):
        return f"this processor has no level {wanted!r}; LLM_KERNELS may be {', '.join((*LEVELS, OFF))}"
    return library


def _join_threads() -> None:
    """Make the OpenMP functions of torch's own runtime visible, to which the library is bound when it is loaded.

    With a runtime of its own it would have threads of its own, and the idle ones of either, which wait in a loop, would
    take the processor from the other's.
    """
    if sys.platform == "linux":
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
        runtimes = [path for path in mapped if Path(path).name.startswith(("libgomp", "libiomp5", "libomp"))]
    else:
        runtimes = [str(path) for path in (Path(torch.__file__).parent / "lib").glob("lib*omp*.dylib")]
    name = min(runtimes, default=ctypes.util.find_library("gomp"))
    if name is not None:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
