"""Operations of the kernels, computed one by one, or noted while a list of them is recorded (recording.py).

The kernels' files say what the fields of each operation hold: LINEAR in run.c, ATTEND in attend.h, the others in ops.h.
"""

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_quant import native

(
    LINEAR, NORM, LAYER_NORM, GATED, GELU, CAP, ADD, MULTIPLY, SCALE, DIVIDE, COPY, ROTATE, STORE, ATTEND,
    NORM_BACKWARD, GATED_BACKWARD, NLL, NLL_BACKWARD,
) = range(18)  # fmt: skip
TYPES = native.TYPES


class Op(ctypes.Structure):
    """What kernels.h calls an Op."""

    _fields_ = (
        ("code", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("stage", ctypes.c_int32),
        ("alone", ctypes.c_int32),
        ("number", ctypes.c_float * 3),
        ("size", ctypes.c_int64 * 15),
        ("inputs", ctypes.c_void_p * 6),
        ("outputs", ctypes.c_void_p * 2),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One operation on tensors; `scratch` is memory of its own that begins as zeros."""

    code: int
    inputs: tuple[Tensor | None, ...]  # the first one says of what type the numbers are
    outputs: tuple[Tensor, ...]
    size: tuple[int, ...]
    kind: int = 0
    number: tuple[float, ...] = ()
    scratch: Tensor | None = None

    @property
    def work(self) -> int:
        """About how many numbers it reads, but for those of a cache."""
        if self.code == LINEAR:
            return self.size[1] * self.size[2]
        return 0 if self.inputs[0] is None else self.inputs[0].numel()

    def op(self, address: Any = Tensor.data_ptr) -> Op:
        """As the kernels read it; `address` says where a tensor lies."""
        first = self.inputs[0]
        assert first is not None
        made = Op(code=self.code, type=TYPES[first.dtype], kind=self.kind)
        for index, number in enumerate(self.number):
            made.number[index] = number
        for index, size in enumerate(self.size):
            made.size[index] = size
        for index, each in enumerate(self.inputs):
            made.inputs[index] = None if each is None else address(each)
        outputs = self.outputs if self.scratch is None else (*self.outputs, self.scratch)
        for index, each in enumerate(outputs):
            made.outputs[index] = address(each)
        return made


class _Here(threading.local):
    """Who listens in this thread."""

    recorder: Any = None


here = _Here()


def note(operation: Operation) -> None:
    """Tell whoever records in this thread."""
    if here.recorder is not None:
        here.recorder.note(operation)


def note_linear(x: Tensor, y: Tensor, kind: int, group: int, weights: tuple[Tensor | None, ...]) -> None:
    """`note` for a product of x (M, K) that gave y (M, N); the weight's tensors are weight, scale, zero and bias."""
    scale = weights[1]
    size = (x.size(0), y.size(1), x.size(1), group, 0 if scale is None else TYPES[scale.dtype])
    note(Operation(code=LINEAR, inputs=(x, *weights), outputs=(y,), size=size, kind=kind))


def compute(operation: Operation, starts: Sequence[int] = (), ends: Sequence[int] = ()) -> None:
    """Compute it now, for rows whose new positions are starts[b] to ends[b], exclusive."""
    op, work = operation.op(), operation.work * (max(ends) if operation.code == ATTEND else 1)
    threads = 1 if work < native.least_work() else torch.get_num_threads()
    native.run(ctypes.byref(op), 1, _longs(starts), _longs(ends), threads)
    note(operation)


def attend_scratch(size: tuple[int, ...]) -> int:
    """How many fp32 numbers of scratch an ATTEND of that size needs."""
    op = Op(code=ATTEND)
    for index, each in enumerate(size):
        op.size[index] = each
    return native.attend_scratch(ctypes.byref(op))


def _longs(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)
