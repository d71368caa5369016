"""What every layer with adapters has alike: its base, the adapters by name, and which of them its forward uses."""

from collections.abc import Hashable

from torch import nn

from llm_blocks import Switched
from llm_blocks.replacing import put


class Adapted(Switched):
    """A layer in whose place it stands, with adapters by name; `active` are those in use, with what multiplies each."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.slots = nn.ModuleDict()
        self.active: dict[str, float] = {}

    def choice(self) -> Hashable:
        return tuple(self.active.items())

    def extra_repr(self) -> str:
        return f"active={self.active}"


def adapted_layers(module: nn.Module) -> dict[str, Adapted]:
    """The layers with adapters of any kind, by path."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, Adapted)}


def remove_adapter(module: nn.Module, name: str) -> nn.Module:
    """Take an adapter of any kind off, in place; gives `module`. Layers without any come back as they were.

    ValueError for an unknown name. What is frozen stays so.
    """
    layers = {path: layer for path, layer in adapted_layers(module).items() if name in layer.slots}
    if not layers:
        raise ValueError(f"there is no adapter {name!r}")
    for path, layer in reversed(layers.items()):  # those inside of others come first
        del layer.slots[name]
        layer.active.pop(name, None)
        if not layer.slots:
            put(module, path, layer.base)
    return module
