"""Which modules multiply by matrices that can be quantized, whatever they are called.

Shapes: N rows (outputs), K columns (inputs), E matrices of a stack.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from llm_quant.linear import KernelLinear
from llm_quant.stacks import QuantizedStack


class LinearLike(nn.Module, ABC):
    """A linear layer that is no nn.Linear, such as one whose weight lies transposed; it may be replaced by one that is.

    Its bias is None, or has a number for each output.
    """

    bias: nn.Parameter | None

    @abstractmethod
    def matrix(self) -> Tensor:
        """The weight (N, K), as nn.Linear has it; a view."""


class Stacked(nn.Module, ABC):
    """A module that multiplies groups of rows by matrices of stacks, as a mixture of experts does.

    It has no layers below it.
    """

    @abstractmethod
    def stacks(self) -> Mapping[str, Tensor]:
        """Each stack (E, N, K) by its name; views."""

    @abstractmethod
    def with_stacks(self, stacks: Mapping[str, QuantizedStack]) -> nn.Module:
        """What takes the module's place when all of its stacks are quantized."""


def targets(module: nn.Module) -> dict[str, nn.Module]:
    """The layers below `module` that can be quantized, by name: nn.Linear itself, `LinearLike` and `Stacked`.

    A subclass of nn.Linear is none of them: whoever wrote it needs its weight as it is.
    """
    return {
        name: layer
        for name, layer in module.named_modules()
        if name and (type(layer) in (nn.Linear, KernelLinear) or isinstance(layer, LinearLike | Stacked))
    }


def weights_of(layer: nn.Module) -> list[Tensor]:
    """The weights of one of the `targets`: one (N, K), or stacks (E, N, K)."""
    if isinstance(layer, Stacked):
        return list(layer.stacks().values())
    return [matrix_of(layer)]


def matrix_of(layer: nn.Module) -> Tensor:
    """The weight (N, K) of an nn.Linear or a `LinearLike`."""
    if isinstance(layer, LinearLike):
        return layer.matrix()
    assert isinstance(layer, nn.Linear)
    return layer.weight
