"""A list of operations that is computed by one call of the kernels, again and again."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_quant import native, operations
from llm_quant.operations import ATTEND, STORE, Operation

_ALIGNED = 64


@dataclass(frozen=True, kw_only=True)
class Staged:
    """An operation, its stage, and whether one thread computes that stage."""

    operation: Operation
    stage: int
    alone: bool


class Program:
    """What `recording.record` gives: `run` computes `result` from the inputs as they are then.

    Results in between share memory where their times don't meet. Weights and caches are kept alive, and read where they
    were when the operations were recorded.
    """

    def __init__(self, made: Sequence[Operation], result: Tensor, kept: list[Tensor]) -> None:
        self.result = torch.empty_like(result)
        staged = stages(made)
        places, size = _layout(staged, memory_of(result))
        self._memory = torch.empty(size + _ALIGNED, dtype=torch.uint8)
        base = self._memory.data_ptr() + -self._memory.data_ptr() % _ALIGNED
        starts = {memory: base + place for memory, place in places.items()}
        starts[memory_of(result)] = self.result.data_ptr() - (result.data_ptr() - memory_of(result))

        def address(x: Tensor) -> int:
            memory = memory_of(x)
            return x.data_ptr() if memory not in starts else starts[memory] + x.data_ptr() - memory

        self._ops = (operations.Op * len(staged))(*(each.operation.op(address) for each in staged))
        for op, each in zip(self._ops, staged, strict=True):
            op.stage, op.alone = each.stage, each.alone
        self._address, self._count = ctypes.addressof(self._ops), len(staged)
        self._kept = _outside(kept, places)

    def run(self, starts: Sequence[int], ends: Sequence[int]) -> Tensor:
        """`result`, for rows whose new positions are starts[b] to ends[b], exclusive; the next run writes over it."""
        rows = ctypes.c_int64 * len(starts)
        native.run(self._address, self._count, rows(*starts), rows(*ends), torch.get_num_threads())
        return self.result


def stages(made: Sequence[Operation]) -> list[Staged]:
    """Put operations into stages: in one of all threads, none reads what another of it writes."""
    staged: list[Staged] = []
    stage, written = 0, set[int]()
    for operation in made:
        alone = operation.code != ATTEND and operation.work < native.least_work()
        reads = {memory_of(each) for each in operation.inputs if each is not None}
        if staged and (alone != staged[-1].alone or (not alone and reads & written)):
            stage, written = stage + 1, set()
        written |= _written(operation)
        staged.append(Staged(operation=operation, stage=stage, alone=alone))
    return staged


def _written(operation: Operation) -> set[int]:
    scales = operation.inputs[2:] if operation.code == STORE else ()
    return {memory_of(each) for each in (*operation.outputs, *scales) if each is not None}


def _layout(staged: list[Staged], result: int) -> tuple[dict[int, int], int]:
    """Where each result in between begins, by the address that it had, and how many bytes they take together."""
    first: dict[int, tuple[int, int]] = {}  # address -> stage, bytes
    last: dict[int, int] = {}
    for each in staged:
        caches = each.operation.code == STORE
        for x in () if caches else each.operation.outputs:
            first.setdefault(memory_of(x), (each.stage, x.untyped_storage().nbytes()))
        for x in (*each.operation.inputs, *each.operation.outputs):
            if x is not None:
                last[memory_of(x)] = each.stage
    first.pop(result, None)
    places: dict[int, int] = {}
    free: list[tuple[int, int, int]] = []  # begin, bytes, the stage after which it is free
    size = 0
    for memory, (stage, nbytes) in first.items():
        nbytes = -(-nbytes // _ALIGNED) * _ALIGNED
        fits = [hole for hole in free if hole[1] >= nbytes and hole[2] < stage]
        begin, held, _ = min(fits, key=lambda hole: hole[1], default=(size, nbytes, 0))
        if fits:
            free = [hole for hole in free if hole[0] != begin]
        else:
            size += nbytes
        places[memory] = begin
        free.append((begin, held, last[memory]))
    return places, size


def _outside(kept: list[Tensor], places: dict[int, int]) -> list[Tensor]:
    """Those of the tensors that a program still reads: what has no place of its own in it."""
    return list({memory_of(x): x for x in kept if memory_of(x) not in places}.values())


def memory_of(x: Tensor) -> int:
    """The address of the storage, by which memory is told apart."""
    return x.untyped_storage().data_ptr()
