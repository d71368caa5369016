"""When weights that are mapped from files go into huge pages, which the kernels read faster than pages of 4 KiB.

Copying them costs what some hundred tokens gain, so by default it is done while a model is in use for long: a little
between two steps, never more of the time than SHARE, and only where there is memory enough.
"""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

from llm_blocks.free_memory import free_memory
from llm_quant import KernelLinear
from llm_quant.huge_pages import HugePages

Step = TypeVar("Step")

STEPS = 256  # before anything is moved
SHARE = 0.1  # of the time of the steps since then
LEAST = 64 * 2**20  # bytes of weights: what is less lies in a processor's caches for the most part


class Settling:
    """The weights of models that generate, which may yet go into huge pages.

    `wanted` True moves all of them at once, False none, None those of models that are used for long.
    """

    def __init__(self, models: Iterable[nn.Module], wanted: bool | None) -> None:
        self._models = list(models)
        self._pages: HugePages | None = None
        self._steps, self._decoding, self._moving = 0, 0.0, 0.0
        if wanted:
            pages = HugePages(read_by_kernels(self._models))
            while pages.move():
                pass
        self._over = wanted is not None

    def between(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same steps; between two of them weights may be moved."""
        began = time.perf_counter()
        for step in steps:
            took = time.perf_counter() - began
            yield step
            if not self._over:
                self._after(took)
            began = time.perf_counter()

    def _after(self, seconds: float) -> None:
        """Move a piece where it is time, after a step that took so many seconds."""
        self._steps += 1
        if self._steps < STEPS:
            return
        if self._pages is None:
            self._pages = HugePages(read_by_kernels(self._models))
            self._over = self._pages.left < LEAST
        self._decoding += seconds
        if self._over or self._moving > SHARE * self._decoding:
            return
        began = time.perf_counter()
        self._over = free_memory() < 2 * self._pages.left or not self._pages.move()
        self._moving += time.perf_counter() - began


def read_by_kernels(models: Iterable[nn.Module]) -> list[Tensor]:
    """The weights that gain: torch's own products take as long with huge pages as without (bf16 and fp32, measured)."""
    modules = (module for model in models for module in model.modules())
    return [module.weight for module in modules if isinstance(module, KernelLinear)]
