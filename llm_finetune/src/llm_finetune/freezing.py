"""Which parameters of a model are trained: all, those of some layers, or all but some kinds."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from llm_finetune.targets import wanted_layers


def freeze(model: Any, *, layers: str | None = None, embeddings: bool = False, norms: bool = False) -> nn.Module:
    """Freeze parts of a `Decoder` in place and train the rest; gives the model.

    `layers` are half-open ranges such as "0-8", whose parameters all stay as they are; `embeddings` and `norms` say
    whether the token embedding (and with it a head that is tied to it) and all norms stay so too. ValueError for layers
    beyond the model's, and where nothing is left to train.
    """
    model.requires_grad_(True)
    for parameter in _frozen(model, layers, embeddings, norms):
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("everything is frozen, so that there is nothing to train; freeze fewer layers")
    return model


def train_layers(model: Any, layers: str) -> nn.Module:
    """Train the layers in half-open ranges such as "24-32" and freeze all else, in place; gives the model."""
    wanted = wanted_layers(layers, model.config.num_layers)
    model.requires_grad_(False)
    for number, block in model.mid.items():
        if int(number) in wanted:
            block.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"this part of the model has none of the layers {layers}, so that there is nothing to train")
    return model


def _frozen(model: Any, layers: str | None, embeddings: bool, norms: bool) -> Iterator[nn.Parameter]:
    if layers is not None:
        wanted = wanted_layers(layers, model.config.num_layers)
        for number, block in model.mid.items():
            if int(number) in wanted:
                yield from block.parameters()
    if embeddings and model.begin is not None:
        yield from model.begin.parameters()
    if norms:
        for path, module in model.named_modules():
            if "norm" in path.rpartition(".")[2]:  # as every architecture names them
                yield from module.parameters()
