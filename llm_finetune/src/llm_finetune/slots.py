"""What one adapter has on one linear layer.

Shapes: B batch, T time, N outputs of a part, K inputs, r rank.
"""

import zlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_blocks import Parts
from llm_finetune.dora import Dora
from llm_finetune.lora_settings import Lora

WHOLE = "whole"
"""The name of the one part of a layer that is adapted as it is."""


class LowRank(nn.Module):
    """The factors A (r, K) and B (N, r) of an adapter, fp32, and what DoRA adds.

    A is uniform within 1 / sqrt(K) on either side and B is 0, so that the adapter begins as nothing.
    """

    def __init__(self, n: int, k: int, r: int, *, seed: int, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        a = torch.empty(r, k).uniform_(-(k**-0.5), k**-0.5, generator=generator)
        self.a = nn.Parameter(a.to(device))
        self.b = nn.Parameter(torch.zeros(n, r, device=device))
        self.dora: Dora | None = None

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """scale B A x in the dtype of x: (..., K) -> (..., N)."""
        return F.linear(F.linear(x, self.a.to(x.dtype)) * scale, self.b.to(x.dtype))


class Slot(nn.Module):
    """An adapter's factors for each adapted part of a layer, with the scale and the dropout that they share.

    `settings` are those that they were made with. While `dropout_seed` is None the masks come from torch's generator,
    else they are a function of it and the shape of x alone, so that a forward can be computed again.
    """

    def __init__(self, pairs: dict[str, LowRank], settings: Lora) -> None:
        super().__init__()
        self.pairs = nn.ModuleDict(pairs)
        self.settings = settings
        self.dropout_seed: int | None = None

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return self.settings.scale

    def dropped(self, x: Tensor) -> Tensor:
        """x with a share of its numbers zeroed and the others made larger, in training; else x itself."""
        share = self.settings.dropout
        if not self.training or share == 0:
            return x
        if self.dropout_seed is None:
            return F.dropout(x, share)
        generator = torch.Generator(x.device).manual_seed(self.dropout_seed)
        zeroed = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(share, generator=generator)
        return x.masked_fill(zeroed, 0) * (1 / (1 - share))

    def extra_repr(self) -> str:
        s = self.settings
        return f"r={s.r}, scale={self.scale:.6g}, dropout={s.dropout:.6g}"


def add_part(y: Tensor, delta: Tensor, parts: Parts | None, part: str) -> Tensor:
    """y (..., N of all) with delta (..., N) added to the outputs of a part."""
    if parts is None or part == WHOLE:
        return y + delta
    pieces = list(y.unflatten(-1, (parts.groups, parts.run)).split(parts.sizes, dim=-1))
    index = parts.names.index(part)
    pieces[index] = pieces[index] + delta.unflatten(-1, (parts.groups, parts.sizes[index]))
    return torch.cat(pieces, dim=-1).flatten(-2)


def of_part(y: Tensor, parts: Parts | None, part: str, dim: int = -1) -> Tensor:
    """The outputs of a part out of all, along a dimension."""
    if parts is None or part == WHOLE:
        return y
    runs = y.unflatten(dim, (parts.groups, parts.run))
    inner = dim if dim < 0 else dim + 1
    span = parts.span(part)
    return runs.narrow(inner, span.start, span.stop - span.start).flatten(inner - 1, inner)


def mixed_seed(seed: int, *where: str) -> int:
    """One seed of 32 bits out of a seed and what it is for."""
    return zlib.crc32(" ".join((str(seed), *where)).encode())
