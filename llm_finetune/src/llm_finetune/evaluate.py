"""The loss on validation rows, weighted as in training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from llm_finetune.feeding import Item, cut
from llm_finetune.objectives import Objective
from llm_finetune.parallel import World
from llm_finetune.precision import computing
from llm_finetune.settings import Settings


@torch.no_grad()
def evaluate(
    model: Any, objective: Objective, rows: Sequence[Item], settings: Settings, world: World | None = None
) -> float:
    """The mean loss over the trained tokens (or pairs) of the first rows, as many micro-batches as settings allow.

    A long row counts as much as its trained tokens do. Every process of `world` gets the same number. The model is in
    evaluation mode meanwhile. NaN where no token of these rows is trained.
    """
    size, world = settings.train.micro_batch_size, world or World()
    total, weight, device = 0.0, 0.0, next(model.parameters()).device
    with mode(model, training=False):
        count = min(-(-len(rows) // size), settings.eval.max_iters)
        for start, counts in ((size * number, counts) for number, counts in world.share(count)):
            items = [cut(rows[i], settings.train.max_seq_length) for i in range(start, min(start + size, len(rows)))]
            with computing(settings.precision, device):
                loss = float(objective.loss(model, items))
            if counts:
                total, weight = total + loss, weight + objective.weight(items)
    total, weight = world.sums([total, weight], device)
    return total / weight if weight else float("nan")


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside, and after it whatever each module was in before."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was
