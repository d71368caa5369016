"""Tensors of a module that are moved and never converted."""

import pytest
import torch
from torch import Tensor

from llm_quant.moving import bits_kept

ODD = torch.tensor([0.1, -3.7e-5, 1e30])


@pytest.mark.parametrize(
    "tensor",
    [
        ODD,
        ODD[0],
        ODD[None, :2].t(),
        ODD[::2],
        torch.empty_strided((16, 1), (1, 16), dtype=torch.bfloat16).fill_(0.1),
        torch.empty_strided((1,), (16,)).fill_(0.1),
        torch.arange(7, dtype=torch.int8),
        torch.empty(0, 3),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_bits_are_kept(tensor: Tensor, dtype: torch.dtype) -> None:
    def fn(each: Tensor) -> Tensor:  # as nn.Module.to gives it to _apply
        return each.to(dtype if each.is_floating_point() else None)

    found = bits_kept(fn)(tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found, tensor)
    assert torch.equal(bits_kept(lambda each: each.type(dtype))(tensor), tensor)


def test_the_device_changes() -> None:
    assert bits_kept(lambda each: each.to("meta"))(ODD).is_meta
