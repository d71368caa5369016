"""Feed-forward layers.

Shapes: B batch, T time, N tokens, C width, E experts, I hidden width, A experts of a token, M = N A rows.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_blocks import training
from llm_quant import QuantizedStack, Stacked, steps

Activation = Callable[[Tensor], Tensor]

MOST = 2**14
"""Experts of a layer: some thirty times what any known model has."""
LARGEST = 2**58


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's share below x (arXiv 1606.08415)."""
    y = steps.gelu(x, tanh=False)
    return F.gelu(x) if y is None else y


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its approximation with tanh."""
    y = steps.gelu(x, tanh=True)
    return F.gelu(x, approximate="tanh") if y is None else y


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202)."""
    if gate.shape == up.shape and training.applies(gate, up):
        return training.SiluGate.apply(gate, up)
    y = steps.silu_gate(gate, up)
    return F.silu(gate) * up if y is None else y


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU by default, GeGLU with a GELU (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden_dim: int, *, activation: Activation = F.silu, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=bias)
        self.up = nn.Linear(dim, hidden_dim, bias=bias)
        self.down = nn.Linear(hidden_dim, dim, bias=bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)  # (B, T, I)
        hidden = silu_gate(gate, up) if self.activation is F.silu else self.activation(gate) * up
        return self.down(hidden)  # (B, T, C)


class RouterLinear(nn.Linear):
    """The linear layer that scores experts, or weighs a shared one. Quantization leaves it as it is.

    It has hardly any weights, and a rounding that turns its choice sends a token through other experts.
    """


class Experts(Stacked):
    """The gated MLPs of a mixture of experts, stacked: gate_up (E, 2 I, C), down (E, C, I) (arXiv 1701.06538).

    Tokens are sorted by expert and each expert that is used multiplies once, whatever their number: there is no loop
    over experts. In files the experts may be stacked like this or one by one; see `pieces`.
    """

    def __init__(self, num: int, dim: int, hidden_dim: int, *, activation: Activation = F.silu) -> None:
        super().__init__()
        if not 1 <= num <= MOST:
            raise ValueError(f"a layer has from 1 to {MOST} experts, not {num}")
        if 2 * num * hidden_dim * dim > LARGEST:  # bytes of a weight are counted in 63 bits
            raise ValueError(f"{num} experts from {dim} to {hidden_dim} are not supported: they may have 2^58 weights")
        self.gate_up = nn.Parameter(torch.empty(num, 2 * hidden_dim, dim))
        self.down = nn.Parameter(torch.empty(num, dim, hidden_dim))
        self.activation = activation

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The sum of weights (N, A) times the chosen (N, A) experts' outputs for each token of x (N, C): (N, C)."""
        return _mixed(x, weights, chosen, self.down.size(0), self._by_expert)

    def _by_expert(self, rows: Tensor, ends: Tensor) -> Tensor:
        gate, up = _by_expert(rows, self.gate_up, ends).chunk(2, dim=-1)  # (M, I)
        return _by_expert(self.activation(gate) * up, self.down, ends)  # (M, C)

    def stacks(self) -> dict[str, Tensor]:
        return {"gate_up": self.gate_up, "down": self.down}

    def with_stacks(self, stacks: Mapping[str, QuantizedStack]) -> nn.Module:
        return QuantizedExperts(stacks["gate_up"], stacks["down"], activation=self.activation)

    def pieces(self) -> dict[str, list[tuple[str, Tensor]]]:
        """Each parameter's name -> the names of its pieces, as files with one expert after another have them.

        The pieces are views of the parameter.
        """
        half = self.gate_up.size(1) // 2
        gate_up, down = self.gate_up.detach(), self.down.detach()
        return {
            "gate_up": [
                (f"{e}.{name}.weight", part)
                for e, both in enumerate(gate_up)
                for name, part in (("gate", both[:half]), ("up", both[half:]))
            ],
            "down": [(f"{e}.down.weight", each) for e, each in enumerate(down)],
        }

    def extra_repr(self) -> str:
        return f"{self.down.size(0)} experts, {self.down.size(1)} -> {self.down.size(2)}"


class QuantizedExperts(nn.Module):
    """`Experts` whose matrices are whole numbers, each of which a token's rows read as they are."""

    def __init__(self, gate_up: QuantizedStack, down: QuantizedStack, *, activation: Activation = F.silu) -> None:
        super().__init__()
        self.gate_up, self.down = gate_up, down
        self.activation = activation

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """As that of `Experts`."""
        return _mixed(x, weights, chosen, len(self.down.layers), self._by_expert)

    def _by_expert(self, rows: Tensor, ends: Tensor) -> Tensor:
        stops = ends.tolist()
        gate, up = self.gate_up(rows, stops).chunk(2, dim=-1)  # (M, I)
        return self.down(self.activation(gate) * up, stops)  # (M, C)


def _mixed(
    x: Tensor, weights: Tensor, chosen: Tensor, num: int, by_expert: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The forward of `num` experts: rows are sorted by expert, and (M, C) comes back from by_expert(rows, ends)."""
    used = chosen.size(1)
    experts, order = chosen.flatten().sort(stable=True)  # both (M,)
    number = torch.arange(num, device=x.device)
    ends = torch.searchsorted(experts, number, right=True).to(torch.int32)  # of each expert's tokens
    out = by_expert(x[order // used], ends)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
    return (out[back].unflatten(0, (-1, used)) * weights[..., None]).sum(1).to(x.dtype)


def _by_expert(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows of x (M, I), sorted by expert, times the matrix of their expert out of weight (E, O, I): (M, O)."""
    rows = [size * weight.element_size() for size in weight.shape[1:]]
    if weight.dtype != torch.float64 and not any(size % 16 for size in rows):
        return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
    # torch groups rows of multiples of 16 bytes alone, and none in double precision; no released model has others
    stops = ends.tolist()
    parts = [F.linear(x[a:b], weight[e]) for e, (a, b) in enumerate(pairwise([0, *stops])) if b > a]
    return torch.cat(parts)
