"""Experts as files have them, one by one, until each is there and they can be stacked.

Shapes: C width, E experts, I hidden width.
"""

import torch
from torch import nn

from llm_blocks.mlp import Experts, QuantizedExperts
from llm_quant import Arena, QuantizedLinear, QuantizedStack, side_by_side


class OneByOne(nn.ModuleDict):
    """A place for every matrix of some `Experts`: nn.Linear on the meta device, by the names of `Experts.pieces`.

    The places may be taken by `QuantizedLinear` in the canonical layout.
    """

    def __init__(self, experts: Experts) -> None:
        num, dim, hidden_dim = experts.down.shape
        super().__init__({str(e): _places(dim, hidden_dim) for e in range(num)})
        self._activation, self._hidden_dim, self._dim = experts.activation, hidden_dim, dim

    def stacked(self, arena: Arena) -> QuantizedExperts:
        """The experts with what is in the places, which are empty afterwards."""
        gate_up: list[nn.Module] = []
        down: list[nn.Module] = []
        for e in list(self):
            expert = self.pop(e)
            assert isinstance(expert, nn.ModuleDict)
            gate_up.append(_prepared(side_by_side(expert["gate"], expert["up"]), arena))
            down.append(_prepared(expert["down"], arena))
        return QuantizedExperts(
            QuantizedStack(gate_up, out_features=2 * self._hidden_dim),
            QuantizedStack(down, out_features=self._dim),
            activation=self._activation,
        )


def _places(dim: int, hidden_dim: int) -> nn.ModuleDict:
    """What one expert consists of."""
    sizes = {"gate": (dim, hidden_dim), "up": (dim, hidden_dim), "down": (hidden_dim, dim)}
    with torch.device("meta"):
        return nn.ModuleDict({name: nn.Linear(k, n, bias=False) for name, (k, n) in sizes.items()})


def _prepared(layer: nn.Module, arena: Arena) -> nn.Module:
    for module in layer.modules():
        if isinstance(module, QuantizedLinear):
            module.prepare(arena)
    return layer
