"""Double quantization: the scales of weights rounded to 8 bits, in blocks of 256 that have scales of their own.

QLoRA (arXiv 2305.14314), section 3, with the 8-bit numbers of dynamic quantization (arXiv 2110.02861, section 2.1).
Shapes: S scales.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

NESTED_BLOCK = 256
_DECADES = 7


@dataclass(frozen=True, kw_only=True)
class Nested:
    """What scales in 8 bits stand for: scale = code[value] * absmax of its block + offset."""

    code: Tensor  # (256,) fp32
    absmax: Tensor  # (S / 256,) fp32
    offset: Tensor  # () fp32

    def scales(self, value: Tensor) -> Tensor:
        """The scales (S,) fp32 of values (S,) uint8."""
        return self.code[value.int()] * _for_each(self.absmax, value) + self.offset


def round_nested(scales: Tensor) -> tuple[Tensor, Nested]:
    """The nearest of scales (S,) fp32: values (S,) uint8, and what they stand for."""
    code, offset = torch.tensor(_numbers(), device=scales.device), scales.mean()
    left = scales - offset
    absmax = torch.stack([block.abs().amax() for block in left.split(NESTED_BLOCK)])
    size = _for_each(absmax.clamp_min(torch.finfo(torch.float32).tiny), left)
    value = torch.bucketize(left / size, (code[1:] + code[:-1]) / 2).to(torch.uint8)
    return value, Nested(code=code, absmax=absmax, offset=offset)


def _for_each(absmax: Tensor, scales: Tensor) -> Tensor:
    return absmax.repeat_interleave(NESTED_BLOCK)[: scales.numel()]


@cache
def _numbers() -> tuple[float, ...]:
    """0, 1, and of each of seven powers of ten up to 1 twice as many between a tenth of it and itself as of the last,
    of both signs; in order."""
    found = [0.0, 1.0]
    for decade in range(_DECADES):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middle = 10.0 ** (decade - _DECADES + 1) * (edges[:-1] + edges[1:]) / 2
        found += [*middle.tolist(), *(-middle).tolist()]
    return tuple(sorted(found))
