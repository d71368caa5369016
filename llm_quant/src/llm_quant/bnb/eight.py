"""LLM.int8(): int8 weights with a scale a row, activations rounded to int8 by rows, and the inputs in which one of
them is 6 or more computed as they are.

Shapes: M rows of x, N outputs, K inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_quant.bnb.layer import BnbLinear
from llm_quant.bnb.library import library
from llm_quant.canonical import PIECE

THRESHOLD = 6.0  # the paper's


@dataclass(frozen=True, kw_only=True)
class Bit8:
    """A weight (N, K) as bitsandbytes stores it: weight = scale * value / 127."""

    value: Tensor  # (N, K) int8
    scale: Tensor  # (N,) fp32, the largest of a row without its sign


def round_bit8(weight: Tensor) -> Bit8:
    """The nearest of a weight (N, K): the largest of each row becomes 127."""
    functional, values, scales = library().functional, [], []
    for rows in weight.detach().split(max(PIECE // weight.size(1), 1)):
        value, scale, _ = functional.int8_vectorwise_quant(rows.to(torch.float16, copy=True))
        values.append(value)
        scales.append(scale)
    return Bit8(value=torch.cat(values), scale=torch.cat(scales))


class Bit8Linear(BnbLinear):
    """A `BnbLinear` with a `Bit8`, whose activations are rounded too.

    What is rounded of a row depends on the rows beside it: an input that is large in one of them is kept in all.
    """

    value: Tensor
    scale: Tensor

    def __init__(self, weight: Bit8, bias: Tensor | None = None) -> None:
        super().__init__((weight.value.size(0), weight.value.size(1)), bias)
        self.register_buffer("value", weight.value)
        self.register_buffer("scale", weight.scale)

    @property
    def kind(self) -> str:
        return "bnb.int8"

    @property
    def weight(self) -> Bit8:
        """The weight; its tensors are those of the layer."""
        return Bit8(value=self.value, scale=self.scale)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return (self.value.float() * (self.scale / 127)[:, None]).to(dtype)

    def times(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if not len(x):
            return x.new_zeros(0, self.out_features)
        # a copy: on the CPU the large ones are set to zero in it, and put back
        small, stats, large = library().functional.int8_vectorwise_quant(x.to(torch.float16, copy=True), THRESHOLD)
        y, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(x, small, self.value, stats, self.scale, large, bias)
        return y

    def times_weight(self, grad: Tensor) -> Tensor:
        return grad @ self.dequantize(grad.dtype)
