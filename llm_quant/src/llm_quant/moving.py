"""Moving tensors without converting them."""

from collections.abc import Callable

import torch
from torch import Tensor


def bits_kept(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` is given, for a tensor's bytes: a change of the device is made, one of the dtype isn't.

    Converting there and back would round what has more bits than the dtype asked for.
    """

    def moved(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0:
            return moved(tensor[None])[0]
        return fn(tensor.view(torch.uint8)).to(torch.uint8).view(tensor.dtype)

    return moved
