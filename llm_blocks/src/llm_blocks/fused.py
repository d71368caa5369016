"""Projections whose outputs are several things side by side, such as the queries, keys and values of attention."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Parts:
    """How the N outputs of a projection divide: `groups` runs, each of which has sizes[0] + sizes[1] + … outputs.

    The outputs of the part names[i] are the i-th piece of every run, one run after another: groups * sizes[i] of them.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: int = 1

    def __post_init__(self) -> None:
        if len(self.names) != len(self.sizes) or len(set(self.names)) != len(self.names):
            raise ValueError(f"each part needs a name of its own and a size, got {self.names} and {self.sizes}")

    @property
    def run(self) -> int:
        """Outputs of a run."""
        return sum(self.sizes)

    @property
    def total(self) -> int:
        """All outputs, N."""
        return self.groups * self.run

    def span(self, name: str) -> slice:
        """Where a part lies within a run."""
        index = self.names.index(name)
        start = sum(self.sizes[:index])
        return slice(start, start + self.sizes[index])

    def count(self, name: str) -> int:
        """Outputs of a part."""
        return self.groups * self.sizes[self.names.index(name)]


def qkv_parts(q: int, kv: int, *, groups: int = 1) -> Parts:
    """Runs of q outputs for queries, kv for keys and kv for values."""
    return Parts(names=("q", "k", "v"), sizes=(q, kv, kv), groups=groups)


class Fused(nn.Module, ABC):
    """A module that holds such projections, and says how their outputs divide."""

    @abstractmethod
    def parts(self) -> Mapping[str, Parts]:
        """The parts of each fused projection, by its name in this module."""


def parts_of(model: nn.Module) -> dict[str, Parts]:
    """The parts of every fused projection below `model`, by its path."""
    return {
        f"{path}.{name}".removeprefix("."): parts
        for path, module in model.named_modules()
        if isinstance(module, Fused)
        for name, parts in module.parts().items()
    }
