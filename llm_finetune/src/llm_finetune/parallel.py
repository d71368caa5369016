"""Several processes that train one model, each holding all of it: they share the micro-batches of a step.

Start them with torchrun, and `torch.distributed.init_process_group` before `finetune`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class World:
    """Which of how many processes this is. Every method must be called by all of them, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

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

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


def world() -> World:
    """The processes that torch.distributed was started with; one where it wasn't."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(rank=dist.get_rank(), size=dist.get_world_size())
