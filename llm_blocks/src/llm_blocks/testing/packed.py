"""The law of packed rows. Shapes: T time (all positions of the row), V vocabulary."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from llm_blocks.testing.laws import Make, close


def check_packed(make: Make, rows: Sequence[Sequence[int]]) -> None:
    """Texts in one packed row = each alone: the logits, and the gradient of every parameter.

    A gradient may differ by 1e-5 of its own largest number or of a hundredth of the model's largest: some are 0 but for
    rounding, such as those of the biases of keys.
    """
    model, lengths = make("f"), [len(row) for row in rows]
    packed = torch.tensor([[token for row in rows for token in row]])  # (1, T)
    together, learned = forward_backward(model, lambda: model.end(model.hidden(packed, segments=lengths)))
    alone, wanted = forward_backward(model, lambda: torch.cat([model(torch.tensor([row])) for row in rows], dim=1))
    close(together, alone, f"packed texts of {lengths} ids")
    floor = max(float(gradient.abs().max()) for gradient in wanted.values()) / 100
    for name, gradient in wanted.items():
        scale = gradient.abs().max().clamp(min=floor)
        close(learned[name] / scale, gradient / scale, f"the gradient of {name} in a packed row of {lengths}")


def forward_backward(model: Any, forward: Callable[[], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (1, T, V), and the gradient by each parameter of their sum in fixed random weights.

    The model is left as it was found: whether its parameters are trainable, and their gradients.
    """
    parameters, trainable = dict(model.named_parameters()), [each.requires_grad for each in model.parameters()]
    model.requires_grad_(True)
    try:
        logits = forward()
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        found = torch.autograd.grad((logits * weights).sum(), list(parameters.values()), allow_unused=True)
    finally:
        for parameter, was in zip(model.parameters(), trainable, strict=True):
            parameter.requires_grad_(was)
    return logits.detach(), {name: each for name, each in zip(parameters, found, strict=True) if each is not None}
