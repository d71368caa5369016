"""Gradients of a step: added up in fp32 over its micro-batches, and clipped."""

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from llm_finetune.parallel import World

BUCKET = 2**24  # numbers that are added up over processes at a time


class Gradients:
    """The gradients of these parameters. Those of parameters in less than fp32 are added up beside them, in fp32.

    `parts` are those of which each process has a part, whose gradient is that over all processes already.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        world: World | None = None,
        parts: Collection[nn.Parameter] = (),
    ) -> None:
        self._parameters, self._world, self._parts = list(parameters.values()), world or World(), set(parts)
        self._shared = [each for each in self._parameters if each not in self._parts]
        self._narrow = [each for each in self._parameters if each.dtype.itemsize < 4]
        self._sums: dict[nn.Parameter, Tensor] = {}

    def collect(self) -> None:
        """Take in what a backward left, before the next one of the same step.

        A step of a single backward needs no second copy, and has none.
        """
        for parameter in self._narrow:
            if parameter.grad is not None:
                known = self._sums.get(parameter)
                self._sums[parameter] = parameter.grad.float() if known is None else known.add_(parameter.grad)
                parameter.grad = None

    def finish(self) -> None:
        """After the last backward of a step: each parameter's `grad` becomes the sum over all and every process."""
        if self._sums:
            self.collect()
        if self._world.size > 1 and self._shared:
            self._add_up()
        for parameter in list(self._sums):
            parameter.grad = self._sums.pop(parameter).to(parameter.dtype)

    def _add_up(self) -> None:
        """A process may have had no row at all, and a parameter that no process has used keeps no gradient."""
        own = [self._sums.get(each, each.grad) for each in self._shared]
        used = torch.tensor([each is not None for each in own], dtype=torch.int32, device=self._shared[0].device)
        self._world.add_up([used])
        known = [each for each, anyone in zip(self._shared, used.tolist(), strict=True) if anyone]
        for some in _buckets(known):
            totals = torch.cat([self._of(each).flatten() for each in some])
            self._world.add_up([totals])
            for parameter, total in zip(some, totals.split([each.numel() for each in some]), strict=True):
                self._sums.pop(parameter, None)
                parameter.grad = total.view_as(parameter).to(parameter.dtype, copy=True)

    def _of(self, parameter: nn.Parameter) -> Tensor:
        """What is there of a parameter's gradient, in fp32."""
        found = self._sums.get(parameter, parameter.grad)
        return torch.zeros_like(parameter, dtype=torch.float32) if found is None else found.float()

    def clip(self, most: float | None, *, scale: float = 1.0) -> float:
        """The norm of all gradients together, which is brought down to `most` where it is above.

        Gradients of a loss that was multiplied by `scale` are divided by it first.
        """
        found = [each.grad for each in self._parameters if each.grad is not None]
        for gradient in found if scale != 1 else ():
            gradient.div_(scale)
        norm = self._norm()
        if most is not None and norm > most:
            for gradient in found:
                gradient.mul_(most / (norm + 1e-6))
        return norm

    def _norm(self) -> float:
        square = _square(each.grad for each in self._shared)
        if self._parts:
            device = self._parameters[0].device
            square += self._world.sums([_square(each.grad for each in self._parts)], device)[0]
        return square**0.5


def _square(gradients: Iterable[Tensor | None]) -> float:
    """The sum of the squares of all numbers, without a copy of any tensor."""
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in gradients if each is not None]
    return float(torch.stack(norms).double().square().sum()) if norms else 0.0


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in their order, so many numbers at a time."""
    some: list[nn.Parameter] = []
    for each in parameters:
        if some and sum(other.numel() for other in some) + each.numel() > BUCKET:
            yield some
            some = []
        some.append(each)
    if some:
        yield some
