"""Record what a function computes on the CPU, once, and compute it again as one call of the kernels.

What a decoded token needs of a processor are products with weights and small steps between them. Called from Python,
one by one, the steps take longer than they compute. A recording notes each operation with the memory that it works on,
as a graph of CUDA does, and a program computes the list; threads meet where one operation needs the result of another.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llm_quant import operations
from llm_quant.operations import Operation
from llm_quant.program import Program, memory_of

aten = torch.ops.aten
TORCHS_PIECE = 2**15  # numbers up to which torch computes elementwise in one piece
# What makes memory, to be written by the kernels; zeros are the scratch of an attention.
_EMPTY = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.zeros.default,
}


def record(function: Callable[[], Tensor], inputs: list[Tensor]) -> tuple[Tensor, Program | str]:
    """Call the function, which computes from `inputs` alone; its result, and the program that computes it again.

    Before the program runs, other values may be copied into `inputs`. Everything else that the function reads, weights
    and caches, is read again where it was: whoever puts other tensors in their place records anew. Where the function
    has an operation that the kernels lack, there is a sentence that names it instead of a program.
    """
    recorder = Recorder(inputs)
    operations.here.recorder = recorder
    try:
        with recorder:
            result = function()
    finally:
        operations.here.recorder = None
    if recorder.problem is not None:
        return result, recorder.problem
    return result, Program(recorder.operations, result, recorder.kept)


class Recorder(TorchDispatchMode):
    """Notes the kernels' operations, and those of torch that the kernels have too.

    Memory is either derived from the inputs, or constant. What torch computes from constants alone stays constant; any
    other operation of torch that the kernels don't have is a problem.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.problem: str | None = None
        self.kept: list[Tensor] = [*inputs]  # so that no address is used twice
        self._derived = {memory_of(each) for each in inputs}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, for True imports the compiler, which takes a second; nothing is compiled while it is recorded."""
        return False

    def note(self, operation: Operation) -> None:
        """An operation of the kernels was computed; it is part of the program unless it reads constants alone."""
        self.kept += [each for each in (*operation.inputs, *operation.outputs, operation.scratch) if each is not None]
        if any(memory_of(each) in self._derived for each in operation.inputs if each is not None):
            self.operations.append(operation)
            self._derived |= {memory_of(each) for each in operation.outputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _EMPTY and func not in _KNOWN and func._can_decompose():  # called as it is in inference mode
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._classify(func, args, kwargs, result)
        return result

    def _classify(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        read, made = list(_tensors((args, tuple(kwargs.values())))), list(_tensors((result,)))
        self.kept += made
        known = {memory_of(each) for each in read}
        if func._schema.is_mutable:
            self._fail(func)
        elif func in _EMPTY or (made and all(memory_of(each) in known for each in made)):
            return  # what is written into it is noted then; or it is a view
        elif read and not known & self._derived:
            return
        elif func in _KNOWN and (operation := _KNOWN[func](args, kwargs, result)) is not None:
            self.note(operation)
        else:
            self._fail(func)

    def _fail(self, func: Any) -> None:
        self.problem = self.problem or f"the kernels have no {func}"


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among what an operator takes or gives, in lists too."""
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _add(args: Any, kwargs: Any, y: Tensor) -> Operation | None:
    a, b = args
    if not isinstance(b, Tensor) or not _alike(a, b, y):
        return None
    alpha = kwargs.get("alpha", 1)
    if alpha != 1 and y.dtype == torch.bfloat16 and (y.numel() % 32 or y.numel() > TORCHS_PIECE):
        return None  # torch rounds the product at the end of each of its pieces, and nowhere else
    factor = torch.tensor(alpha, dtype=y.dtype)  # so torch rounds it, and no other factor
    return _of(operations.ADD, (a, b), y, factor.item())


def _multiply(args: Any, kwargs: Any, y: Tensor) -> Operation | None:
    a, b = args
    if isinstance(b, Tensor):
        return _of(operations.MULTIPLY, (a, b), y) if _alike(a, b, y) else None
    return _of(operations.SCALE, (a,), y, float(b)) if _alike(a, y) else None


def _divide(args: Any, kwargs: Any, y: Tensor) -> Operation | None:
    a, b = args
    return _of(operations.DIVIDE, (a,), y, float(b)) if not isinstance(b, Tensor) and _alike(a, y) else None


def _copy(args: Any, kwargs: Any, y: Tensor) -> Operation | None:
    """Of the numbers of x, in another order in memory or another dtype."""
    x = args[0]
    if y.dim() > 4 or not {x.dtype, y.dtype} <= {torch.float32, torch.bfloat16}:
        return None
    sizes, mine, theirs = (
        (fill,) * (4 - y.dim()) + tuple(each) for fill, each in ((1, y.shape), (0, x.stride()), (0, y.stride()))
    )
    size, kind = (*sizes, *mine, *theirs), operations.TYPES[y.dtype]
    return Operation(code=operations.COPY, inputs=(x,), outputs=(y,), size=size, kind=kind)


def _of(code: int, inputs: tuple[Tensor | None, ...], y: Tensor, *number: float) -> Operation:
    return Operation(code=code, inputs=inputs, outputs=(y,), size=(y.numel(),), number=number)


def _alike(*tensors: Tensor) -> bool:
    """Whether the numbers of all lie in the same order, in a dtype that the kernels know."""
    first = tensors[0]
    return first.dtype in (torch.float32, torch.bfloat16) and all(
        each.dtype == first.dtype and each.shape == first.shape and each.is_contiguous() for each in tensors
    )


_KNOWN: dict[Any, Callable[[Any, Any, Tensor], Operation | None]] = {
    aten.add.Tensor: _add,
    aten.mul.Tensor: _multiply,
    aten.div.Tensor: _divide,
    aten.clone.default: _copy,
    aten._to_copy.default: _copy,
}
