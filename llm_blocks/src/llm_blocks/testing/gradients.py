"""The law of gradients: steps that are one function for autograd learn what torch's operators do."""

from collections.abc import Sequence
from unittest import mock

import torch

from llm_blocks import training
from llm_blocks.testing.laws import Make, close
from llm_blocks.testing.packed import forward_backward
from llm_quant import workspace


def check_gradients(make: Make, row: Sequence[int]) -> None:
    """Logits and the gradient of every parameter, in a workspace, = those of torch's own operators without one.

    As near as `check_packed` has it.
    """
    model, ids = make("f"), torch.tensor([list(row)])
    with workspace.using(), mock.patch.object(workspace, "SMALLEST", 1):
        found, learned = forward_backward(model, lambda: model(ids))
    with mock.patch.object(training, "applies", return_value=False):
        plain, wanted = forward_backward(model, lambda: model(ids))
    close(found, plain, "logits of a forward that learns")
    floor = max(float(gradient.abs().max()) for gradient in wanted.values()) / 100
    for name, gradient in wanted.items():
        scale = gradient.abs().max().clamp(min=floor)
        close(learned[name] / scale, gradient / scale, f"the gradient of {name}")
