"""All that adapters do to a layer as two small products, for a forward from which nothing is learnt.

One after the other and part by part, several adapters are many small operations, some of which no recording of a
decoding step has (`llm_blocks.Recorded`). Shapes: N outputs, K inputs, R the ranks of all pairs of factors together.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_blocks import Parts, spread
from llm_finetune.slots import WHOLE, LowRank, Slot
from llm_quant import kernel_linear

BLOCK = 16  # rows of a weight that the kernels read at once
Ratio = Callable[[LowRank, float, str], Tensor]


def add_joined(
    y: Tensor, x: Tensor, active: Mapping[Slot, float], parts: Parts | None, bias: Tensor | None, ratio: Ratio
) -> Tensor:
    """y (..., N), which the base has made of x (..., K), with what active adapters add, times their weights.

    `ratio(pair, scale, part)` is DoRA's m / |W + s B A|, which multiplies the rows of W x and not the bias.
    """
    found = [(pair, part, slot.scale, weight) for slot, weight in active.items() for part, pair in _pairs(slot)]
    spare = -sum(pair.a.size(0) for pair, *_ in found) % BLOCK
    a = F.pad(torch.cat([pair.a for pair, *_ in found]), (0, 0, 0, spare)).to(x.dtype)
    columns, times = [], None
    for pair, part, scale, weight in found:
        b = pair.b * (scale * weight)
        if pair.dora is not None:
            rows = ratio(pair, scale, part)
            b = b * rows.unsqueeze(1)
            more = _placed((rows - 1).unsqueeze(1) * weight, parts, part)
            times = more if times is None else times + more
        columns.append(_placed(b, parts, part))
    low = kernel_linear(x, a)
    delta = kernel_linear(low, F.pad(torch.cat(columns, dim=1), (0, spare)).to(x.dtype))
    return (y if times is None else _times_rows(y, 1 + times.squeeze(1), bias)) + delta


def _pairs(slot: Any) -> Iterator[tuple[str, LowRank]]:
    yield from slot.pairs.items()


def _placed(rows: Tensor, parts: Parts | None, part: str) -> Tensor:
    """Rows (n, R) of a part among those of all of a layer (N, R), which are 0 elsewhere."""
    if parts is None or part == WHOLE:
        return rows
    pieces = [rows.new_zeros(parts.groups, size, rows.size(1)) for size in parts.sizes]
    index = parts.names.index(part)
    pieces[index] = rows.unflatten(0, (parts.groups, parts.sizes[index]))
    return torch.cat(pieces, dim=1).flatten(0, 1)


def _times_rows(y: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    """(y - bias) times a number for each output, plus bias: (..., N)."""
    scaled = y * spread(rows.to(y.dtype), y)
    if bias is None:
        return scaled
    return scaled + spread(((1 - rows) * bias).to(y.dtype), y)
