"""Keys and values that all positions of a layer see beside those of the text, with a softmax and a weight of their own.

Shapes: B batch, T time, S keys to look at, P keys beside them, H heads, K kv heads, D head size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llm_blocks.plan import FEW
from llm_blocks.spreading import spread


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Keys and values (1, K, P, D), and what multiplies the attention to them in each head, gate (H,)."""

    keys: Tensor
    values: Tensor
    gate: Tensor

    def attend(self, function: Callable[..., Tensor], q: Tensor) -> Tensor:
        """gate times `function(q, k, v, view)` of queries (B, H, T, D), which see all P: (B, H, T, D)."""
        k, v = (each.expand(q.size(0), -1, -1, -1) for each in (self.keys, self.values))
        few = q.size(0) * q.size(2) <= FEW and not torch.is_grad_enabled()  # what the kernels are the faster ones for
        y = function(q, k, v, _All((k.contiguous(), v.contiguous()) if few else None)).transpose(1, 2)
        return (y * spread(self.gate.to(q.dtype)[:, None], y)).transpose(1, 2)


class BesideView:
    """A view of the text's keys, with more beside them; all else is that of the `plain` view."""

    __slots__ = ("more", "plain")

    def __init__(self, plain: Any, more: Sequence[Beside]) -> None:
        self.plain, self.more = plain, more

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def attend(
        self,
        function: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        unplaced: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Attention to the text, and added to it that to what is beside: (B, H, T, D).

        What is beside has no positions; `unplaced` is the function without them, where `function` goes by positions.
        """
        y = function(q, k, v, self.plain)
        for each in self.more:
            y = (y.transpose(1, 2) + each.attend(unplaced or function, q).transpose(1, 2)).transpose(1, 2)
        return y


class BesidePlan:
    """A plan for one layer whose positions see more than the text; all else is that of the `plain` plan."""

    __slots__ = ("more", "plain")

    def __init__(self, plain: Any, more: Sequence[Beside]) -> None:
        self.plain, self.more = plain, more

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def remember(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, BesideView]:
        """As `Plan.remember`."""
        k, v, view = self.plain.remember(layer, k, v)
        return k, v, BesideView(view, self.more)


class _All:
    """The view of queries that see all keys, whatever their positions."""

    mask: ClassVar[None] = None
    causal: ClassVar[bool] = False
    alone: ClassVar[bool] = True
    spelled_out: ClassVar[bool] = False
    starts: ClassVar[None] = None
    ends: ClassVar[None] = None
    window: ClassVar[None] = None

    __slots__ = ("kept",)

    def __init__(self, kept: tuple[Tensor, Tensor] | None) -> None:
        self.kept = kept
