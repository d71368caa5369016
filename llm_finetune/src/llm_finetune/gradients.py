"""Gradients of a step: added up in fp32 over its micro-batches, and clipped."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Gradients:
    """The gradients of these parameters. Those of parameters in less than fp32 are added up beside them, in fp32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = list(parameters.values())
        self._narrow = [each for each in self._parameters if each.dtype.itemsize < 4]
        self._sums: dict[nn.Parameter, Tensor] = {}

    def collect(self, *, last: bool) -> None:
        """Take in what a backward left; after the `last` of a step each parameter's `grad` is the whole sum.

        A step of a single backward needs no second copy, and has none.
        """
        if last and not self._sums:
            return
        for parameter in self._narrow:
            if parameter.grad is None:
                continue
            if parameter in self._sums:
                self._sums[parameter] += parameter.grad
            else:
                self._sums[parameter] = parameter.grad.float()
            parameter.grad = None
        if last:
            for parameter, total in self._sums.items():
                parameter.grad = total.to(parameter.dtype)
            self._sums = {}

    def clip(self, most: float | None) -> float:
        """The norm of all gradients together, which is brought down to `most` where it is above."""
        found = [each.grad for each in self._parameters if each.grad is not None]
        norm = float(torch.nn.utils.get_total_norm([each.float() for each in found], foreach=False))
        if most is not None and norm > most:
            for gradient in found:
                gradient.mul_(most / (norm + 1e-6))
        return norm
