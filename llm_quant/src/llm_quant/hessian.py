"""What the inputs of a linear layer say of its weights: which errors of rounding reach the output, and how far.

Shapes: M rows of x, N outputs, K inputs.
"""

import torch
from torch import Tensor


class Hessian:
    """H = 2 X^T X / M of the inputs X (M, K) that were added: the second derivative of the squared error of x W^T.

    It is summed in fp32, on the device of the inputs.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._sum: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Add inputs (..., K)."""
        rows = x.detach().reshape(-1, x.size(-1)).float()
        if self._sum is None:
            self._sum = rows.new_zeros(rows.size(1), rows.size(1))
        self._sum.addmm_(rows.t(), rows)
        self._rows += rows.size(0)

    def matrix(self) -> Tensor | None:
        """H (K, K) in fp32; None where no input was added."""
        return None if self._sum is None or self._rows == 0 else self._sum * (2 / self._rows)


def squared_error(error: Tensor, hessian: Tensor) -> Tensor:
    """E H E^T for each row of an error E (N, K) of a weight: (N,).

    It is twice the mean square of what the error adds to an output.
    """
    return ((error @ hessian) * error).sum(dim=1).clamp_(min=0)


def damped(weight: Tensor, hessian: Tensor, share: float) -> Tensor:
    """H / m + share I, where m is the mean of its diagonal: positive definite, also with few or dead inputs.

    H comes with what it is for, a weight (N, K). ValueError for another shape and for what is infinite or no number.
    """
    if hessian.shape != (weight.size(1), weight.size(1)):
        raise ValueError(f"a weight of {weight.size(1)} inputs has no Hessian of shape {tuple(hessian.shape)}")
    if not 0 < share <= 1:
        raise ValueError(f"damping is a share of the Hessian's mean, over 0 and up to 1, not {share}")
    for name, tensor in (("inputs", hessian), ("weights", weight)):
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"its {name} hold what is infinite or no number")
    mean = hessian.diagonal().mean()
    scaled = hessian / mean if mean >= torch.finfo(hessian.dtype).tiny else torch.zeros_like(hessian)
    scaled.diagonal().add_(share)
    return scaled
