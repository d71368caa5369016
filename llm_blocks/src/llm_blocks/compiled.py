"""A model whose decoding steps are compiled. Shapes: B batch, T time, V vocabulary."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm_blocks.cache import KVCache
from llm_blocks.plan import check_counts
from llm_blocks.rope_config import Rope
from llm_blocks.static import static_forward

SMALLEST = 1024  # slots that a step looks at; twice as many, each time a text outgrows them
STEPS = (1, 2, 4, 8, 16)  # new positions of a compiled step, the last the most; in between, the last is repeated
_MOST_GRAPHS = 256  # of all models in a process; torch gives up after 8 unless told otherwise


class CompileError(ValueError):
    """A step can't be compiled here; the message says why and what to do."""


class CompiledDecoder:
    """Called as the model is; steps of a few positions run compiled, and all else (reading a prompt) as it ever did.

    A graph is compiled once for each batch size, each of `STEPS` and each size of cache, which are powers of two from
    `SMALLEST`: none as a text grows, until it is twice as long. On CUDA a graph is recorded and replayed whole. Caches
    must come from `new_cache`. Weights that are replaced or moved ask for a new `CompiledDecoder`. `compiler` makes the
    fast function of a plain one, by default torch.compile. ValueError for a model with a `cache_dtype`.
    """

    cache_dtype = None

    def __init__(self, model: Any, *, compiler: Callable[[Any], Any] | None = None) -> None:
        if model.cache_dtype is not None:
            raise ValueError(
                f"compiled steps keep keys and values in the dtype of the activations, not in {model.cache_dtype}; "
                "leave out one of the two"
            )
        self._model = model
        self._run = (compiler or functools.partial(torch_compile, device=self._device))(static_forward)
        self._known: set[tuple[Any, ...]] = set()
        self._inputs: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._stores: weakref.WeakKeyDictionary[KVCache, dict[int, tuple[list[Tensor], list[Tensor]]]]
        self._stores = weakref.WeakKeyDictionary()
        self._idle: list[KVCache] = []

    @property
    def config(self) -> Any:
        """The model's Config."""
        return self._model.config

    @property
    def graphs(self) -> int:
        """How many graphs were compiled so far."""
        return len(self._known)

    def parameters(self) -> Any:
        """The model's."""
        return self._model.parameters()

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    @torch.inference_mode()
    def new_cache(self, batch: int, length: int) -> KVCache:
        """An empty cache for `batch` rows of `length` positions or more: of a size that graphs are compiled for.

        Its storage is that of the last one that was let go, if it has the size: a recorded graph knows its address.
        """
        capacity = max(length, min(_power(length), self.config.max_positions))
        kept = next((each for each in self._idle if (len(each.lengths), each.capacity) == (batch, capacity)), None)
        self._idle.clear()
        kept = kept or self._model.new_cache(batch, capacity)
        lent = kept.emptied()
        weakref.finalize(lent, self._take_back, kept).atexit = False
        return lent

    def _take_back(self, kept: KVCache) -> None:
        self._idle[:] = [kept]

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, cache: KVCache | None = None, *, counts: list[int] | None = None, last_only: bool = False
    ) -> Tensor:
        """As `Decoder.forward`. Raises CompileError where this machine can't compile."""
        step = x.dim() == 2 and x.size(1) <= STEPS[-1] and (x.size(1) == 1 or not last_only)
        if cache is None or not step:
            return self._model(x, cache, counts=counts, last_only=last_only)
        real = check_counts(x.size(0), x.size(1), counts)
        ends = cache.ends(real)
        if not self._has_graph(cache, ends):
            return self._model(x, cache, counts=counts, last_only=last_only)
        time = next(size for size in STEPS if size >= x.size(1))
        ids, positions = self._filled(x, cache.lengths, real, time)
        slots = min(_power(max(ends)), cache.capacity)
        keys, values = self._storage(cache, slots)
        beyond = 1 + cache.long_from if cache.long_from is not None and cache._turns_long(0, ends[0]) else None
        cache.reach(ends)
        logits = self._step((x.size(0), time, cache.capacity, slots, beyond), ids, positions, keys, values)
        cache.commit(ends)
        return logits[:, : x.size(1)]

    def _step(self, graph: tuple[Any, ...], *inputs: Any) -> Tensor:
        """Run the graph; its result is copied, for a recorded graph writes the next one to the same place."""
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        if graph in self._known:
            return self._run(self._model, *inputs, graph[-1]).clone()
        from torch._dynamo import config, exc

        try:
            with config.patch(recompile_limit=_MOST_GRAPHS):
                logits = self._run(self._model, *inputs, graph[-1]).clone()
        except exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise CompileError(
                f"torch can't compile a step of this model, so don't compile; it says: {reason}"
            ) from error
        self._known.add(graph)
        return logits

    def _filled(self, x: Tensor, starts: list[int], counts: list[int], time: int) -> tuple[Tensor, Tensor]:
        """The ids and positions (B, time) of a step, in place of those before.

        The last real position of a row is repeated to the right: computed again, it is what it was. A row without any
        has -1.
        """
        shape = (x.size(0), time)
        if shape not in self._inputs:
            both = [torch.zeros(shape, dtype=torch.int64, device=self._device) for _ in range(2)]
            _stay(both)
            self._inputs[shape] = both[0], both[1]
        ids, positions = self._inputs[shape]
        taken = [[min(t, max(count, 1) - 1) for t in range(time)] for count in counts]
        whole = x.size(1) == time == min(counts) or time == 1
        ids.copy_(x if whole else x.gather(1, torch.tensor(taken).to(x.device, non_blocking=True)))
        rows = zip(starts, counts, taken, strict=True)
        values = [[start + t if count else -1 for t in each] for start, count, each in rows]
        if time == 1 and len({value for each in values for value in each}) == 1:
            positions.fill_(values[0][0])
        else:
            positions.copy_(torch.tensor(values), non_blocking=True)  # without waiting for the step before
        return ids, positions

    def _storage(self, cache: KVCache, slots: int) -> tuple[list[Tensor], list[Tensor]]:
        """The first slots of every layer, which a graph takes to be where they were."""
        views = self._stores.setdefault(cache, {})
        if slots not in views:
            both = [[stored[:, :, :slots] for stored in side.values()] for side in (cache.k, cache.v)]
            _stay([*both[0], *both[1]])
            views[slots] = both[0], both[1]
        return views[slots]

    def _has_graph(self, cache: KVCache, ends: list[int]) -> bool:
        """Whether one graph can compute rows of these lengths: all have the same angles, which won't change."""
        read = max(max(end, aim or 0) for end, aim in zip(ends, cache.aims, strict=True))
        dynamic = any(read > rope.original_max_positions for rope in _ropes(self.config) if rope.kind == "dynamic")
        alike = len({cache._turns_long(row, end) for row, end in enumerate(ends)}) == 1
        return alike and not dynamic and max(ends) <= self.config.max_positions


def torch_compile(function: Any, *, device: torch.device) -> Any:
    """torch.compile for a step on that device: whole, for fixed shapes, and on CUDA recorded as one graph.

    CompileError where there is no compiler.
    """
    require_compiler(device)
    options: dict[str, Any] = {}
    if device.type == "cuda":
        # with the second, the product of a single row becomes a sum that reads int8 weights as they are
        options = {"triton.cudagraphs": True, "coordinate_descent_tuning": True}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def require_compiler(device: torch.device) -> None:
    """Raise CompileError where torch.compile finds no compiler for that device."""
    if device.type not in ("cpu", "cuda"):
        raise CompileError(f"steps are compiled for cpu and cuda, not for {device.type}; don't compile there")
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise CompileError(
                "compiling for CUDA needs Triton, which is not here: pip install triton, or don't compile"
            )
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError) as error:
        raise CompileError(
            "compiling needs a C++ compiler, and there is none (g++, clang++, or what CXX names); install one, or "
            "don't compile"
        ) from error


def _stay(tensors: list[Tensor]) -> None:
    """Promise a recorded graph that these are where they were: it reads and writes them there, without copies."""
    if tensors[0].device.type == "cuda":
        for each in tensors:
            torch._dynamo.mark_static_address(each, guard=False)


def _power(length: int) -> int:
    """The least of SMALLEST, twice that, … that holds `length`."""
    return max(SMALLEST, 1 << (length - 1).bit_length())


def _ropes(config: Any) -> list[Rope]:
    return [value for value in vars(config).values() if isinstance(value, Rope)]
