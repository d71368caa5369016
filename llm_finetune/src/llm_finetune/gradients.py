"""Gradients of a step: added up in fp32 over its micro-batches, and clipped."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from llm_finetune.parallel import World


class Gradients:
    """The gradients of these parameters. Those of parameters in less than fp32 are added up beside them, in fp32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], world: World | None = None) -> None:
        self._parameters, self._world = list(parameters.values()), world or World()
        self._narrow = [each for each in self._parameters if each.dtype.itemsize < 4]
        self._sums: dict[nn.Parameter, Tensor] = {}

    def collect(self) -> None:
        """Take in what a backward left, before the next one of the same step.

        A step of a single backward needs no second copy, and has none.
        """
        for parameter in self._narrow:
            if parameter.grad is not None:
                self._sums[parameter] = self._sums.get(parameter, 0) + parameter.grad.float()
                parameter.grad = None

    def finish(self) -> None:
        """After the last backward of a step: each parameter's `grad` becomes the sum over all and every process."""
        if self._sums:
            self.collect()
        if self._world.size > 1:
            self._add_up()
        for parameter, total in self._sums.items():
            parameter.grad = total.to(parameter.dtype)
        self._sums = {}

    def _add_up(self) -> None:
        """A process may have had no row at all, and a parameter that no process has used keeps no gradient."""
        own = [self._sums.get(each, each.grad) for each in self._parameters]
        used = torch.tensor([each is not None for each in own], dtype=torch.int32, device=self._parameters[0].device)
        self._world.add_up([used])
        for parameter, total, known in zip(self._parameters, own, used.tolist(), strict=True):
            if known:
                total = torch.zeros_like(parameter, dtype=torch.float32) if total is None else total.float()
                self._world.add_up([total])
                self._sums[parameter] = total

    def clip(self, most: float | None, *, scale: float = 1.0) -> float:
        """The norm of all gradients together, which is brought down to `most` where it is above.

        Gradients of a loss that was multiplied by `scale` are divided by it first.
        """
        found = [each.grad for each in self._parameters if each.grad is not None]
        for gradient in found if scale != 1 else ():
            gradient.div_(scale)
        norm = float(torch.nn.utils.get_total_norm([each.float() for each in found], foreach=False))
        if most is not None and norm > most:
            for gradient in found:
                gradient.mul_(most / (norm + 1e-6))
        return norm
