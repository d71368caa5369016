"""The systems that finetune.py compares, each a module whose `train(task, start, tick)` trains LoRA until it is ended.

`start(weight_bytes, note)` is called once, when the model is ready, and `tick(loss)` after each step; both return when
the next step may begin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

MODULES = {"ours": "trainers.ours", "peft": "trainers.peft_trainer", "litgpt": "trainers.litgpt_trainer"}
PRECISIONS = ("fp32", "bf16", "nf4")
R, ALPHA, RATE = 8, 16, 1e-3
Start = Callable[[int, str], None]
Tick = Callable[[float], None]


class Unavailable(RuntimeError):
    """Why a system can't be run here, in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained: the checkpoint in `folder`, on queries and values of all layers, by the same rows each step."""

    system: str
    folder: str
    precision: str
    batch: int
    length: int
    seed: int
    threads: int

    def rows(self, vocab_size: int) -> list[list[int]]:
        """The token ids of a step's rows: `length` targets and one token before them."""
        import torch

        made = torch.Generator().manual_seed(self.seed)
        return torch.randint(0, vocab_size, (self.batch, self.length + 1), generator=made).tolist()


def weight_bytes(model: Any) -> int:
    """Bytes of a model's weights, quantized ones as they are, and none of adapters."""
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers()) if not each.requires_grad}
    return sum(each.nbytes for each in tensors.values())


def run(task: Task, start: Start, tick: Tick) -> None:
    """Train with the system that the task names. Unavailable where that can't be done."""
    import_module(MODULES[task.system]).train(task, start, tick)
