"""Moving tensors without converting them."""

from collections.abc import Callable

import torch
from torch import Tensor


def bits_kept(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` is given, for a tensor's bytes: a change of the device is made, one of the dtype isn't.

    Converting there and back would round what has more bits than the dtype asked for.
    """

    def moved(tensor: Tensor) -> Tensor:
        # by as_strided, for a dimension of 1 may have any stride, which a view of bytes refuses
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        return fn(flat.view(torch.uint8)).to(torch.uint8).view(tensor.dtype).view(tensor.shape)

    return moved
