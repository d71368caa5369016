"""Activation checkpointing (arXiv 1604.06174): of each layer only its input is kept, and backward computes it again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from llm_finetune.products import again


@contextmanager
def recomputed(model: Any, wanted: bool = True) -> Iterator[None]:
    """Inside, every layer of a `Decoder` that is run for its gradient keeps no more than its input, if `wanted`.

    It costs one more forward of the layers and changes no bit; what dropout drops stays the same.
    """
    before = [(block, vars(block).get("forward")) for block in model.mid.values()] if wanted else []
    for block, _ in before:
        block.forward = partial(_run, block.forward)
    try:
        yield
    finally:
        for block, own in before:
            del block.forward  # what is left is that of its class
            if own is not None:
                block.forward = own


def _run(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=again)
