"""Several processes that train one model: they share the micro-batches of a step.

Start them with `launch` or torchrun, and join them by `started` before `finetune`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class World:
    """Which of how many processes this is. Every method must be called by all of them, in the same order."""

    rank: int = 0
    size: int = 1
    in_step: bool = False  # whether a forward takes all of them, as that of a sharded model does

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def share(self, count: int) -> Iterator[tuple[int, bool]]:
        """Which of `count` micro-batches are this process', by number, and true.

        Processes that go in step have equally many: where there is none left, it is the first again, and false.
        """
        for start in range(0, count, self.size):
            if start + self.rank < count:
                yield start + self.rank, True
            elif self.in_step:
                yield 0, False

    def sums(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Each number added up over all processes, in double precision."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        return self.sums([float(flag)], device)[0] > 0

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Add each tensor up over all processes, in place."""
        for tensor in tensors if self.size > 1 else ():
            dist.all_reduce(tensor)

    def same(self, tensor: Tensor) -> Tensor:
        """The tensor of the first process, in all of them."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def world() -> World:
    """The processes that torch.distributed was started with; one where it wasn't."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())
