"""Layers that something else takes the place of as soon as their weights are there, one after the other.

So a model is rounded, say, while it is read, and never in memory as it was. What takes a layer's place is the caller's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from torch import Tensor, nn

from llm_blocks.parameters import assign
from llm_quant.memory import give_back

SOME = 2**23  # bytes of weights, after which free memory goes back to the system

Replace: TypeAlias = Callable[[nn.Module], Mapping[str, Callable[[nn.Module], nn.Module]]]
"""A model without weights -> its layers to replace by name, each with what makes the new one of the layer with weights.

`llm_quant.plan` gives such makers.
"""


def take_out(model: nn.Module, paths: Iterable[str]) -> dict[str, nn.Module]:
    """The layers of these names, of a model on the meta device, in which each leaves an empty place."""
    layers = {path: model.get_submodule(path) for path in paths}
    for path in layers:
        put(model, path, nn.Module())
    return layers


def put_in(
    model: nn.Module,
    layers: dict[str, nn.Module],
    makers: Mapping[str, Callable[[nn.Module], nn.Module]],
    read: Callable[[str], Tensor],
) -> None:
    """Give each layer of `take_out` its parameters, read(name) by their names in the model, and put in what it becomes.

    One layer at a time has its weights; `layers` is empty afterwards.
    """
    freed = 0
    for path in list(layers):
        layer = layers.pop(path)
        assign(layer, lambda names, path=path: read(f"{path}.{names[0]}"), trainable=False)
        freed += sum(parameter.nbytes for parameter in layer.parameters())
        put(model, path, makers[path](layer).train(model.training))
        del layer  # before the next one is read
        if freed >= SOME:
            give_back()
            freed = 0
    give_back()


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Set the module at a path."""
    above, _, last = path.rpartition(".")
    setattr(model.get_submodule(above), last, module)
