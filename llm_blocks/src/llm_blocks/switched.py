"""Modules whose forward may be switched between several, such as layers with adapters."""

from abc import ABC, abstractmethod
from collections.abc import Hashable

from torch import nn


class Switched(nn.Module, ABC):
    """A module with a choice that its forward depends on, beside its weights and its input."""

    @abstractmethod
    def choice(self) -> Hashable:
        """What is chosen now: what was recorded of a forward holds for the same choice alone."""
