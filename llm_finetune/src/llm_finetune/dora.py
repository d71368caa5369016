"""DoRA: the rows of an adapted weight keep directions and magnitudes apart (arXiv 2402.09353).

y = m / |W + s B A| (W + s B A) x by rows, where m begins as |W|, so that nothing changes at first. The norm counts as a
constant in the gradient (section 4.3 of the paper).

Shapes: N outputs of the adapted part, K inputs, r rank.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Dora(nn.Module):
    """Magnitudes (N,) of rows, fp32, whose squared lengths in W are `squares` (N,)."""

    squares: Tensor

    def __init__(self, squares: Tensor) -> None:
        super().__init__()
        self.magnitude = nn.Parameter(squares.sqrt())
        self.register_buffer("squares", squares, persistent=False)
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    def forward(self, low: Tensor, product: Tensor, ratio: Tensor) -> Tensor:
        """What is added to W x + bias, of low = s B A x and product = W x, both (..., N), and m / |W + s B A| (N,)."""
        ratio = ratio.to(low.dtype)
        return (ratio - 1) * product + ratio * low

    def ratio(self, a: Tensor, b: Tensor, scale: float, weight_times: Callable[[Tensor], Tensor]) -> Tensor:
        """m / |W + s B A| (N,), of A (r, K), B (N, r) and weight_times(A) = W A^T (N, r).

        The product with W isn't computed again between steps of generation, where A and B stay as they are.
        """
        # An optimizer may write past the version of a tensor, and tensors made in inference mode have none.
        steady = not (torch.compiler.is_compiling() or self.training or torch.is_grad_enabled())
        if not steady or a.is_inference() or b.is_inference():
            self._kept = None
            return self.magnitude / self.lengths(a, b, scale, weight_times)
        state = (a._version, b._version, a.data_ptr(), b.data_ptr())
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.lengths(a, b, scale, weight_times))
        return self.magnitude / self._kept[1]

    @torch.no_grad()
    def lengths(self, a: Tensor, b: Tensor, scale: float, weight_times: Callable[[Tensor], Tensor]) -> Tensor:
        """|W + s B A| of each row (N,), without that sum: |W|^2 + 2 s (W A^T) . B + s^2 (B A A^T) . B."""
        a, b = a.float(), b.float()
        with torch.autocast(a.device.type, enabled=False):  # differences of such sums need all of fp32
            crossed = (weight_times(a) * b).sum(dim=1)
            own = ((b @ (a @ a.T)) * b).sum(dim=1)
        return (self.squares + 2 * scale * crossed + scale**2 * own).clamp(min=0).sqrt()
