"""What trained vectors that are added or multiplied have to look like for decoding steps to be recorded.

Shapes: N what the vectors have a number for.
"""

import torch
from torch import Tensor

from llm_blocks.plan import FEW


def spread(x: Tensor, y: Tensor) -> Tensor:
    """x, which y (..., N) is multiplied by or added to, repeated to all of y where that is a step of few positions.

    Recordings (`llm_quant.recording`) take constants of the whole shape alone: what is repeated as it is used may be
    something that belongs to a position, and changes.
    """
    few = y.numel() <= FEW * y.shape[-x.dim() :].numel()
    return x.expand_as(y).contiguous() if few and not torch.is_grad_enabled() else x
