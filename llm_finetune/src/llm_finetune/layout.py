"""The parameters that train as this process has them: whole, or a part of each beside those of other processes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_sepweight.stored import Pending, pending


class Layout:
    """Trained parameters by their names in the model. `parameters` are those that an optimizer here changes.

    Of a parted one that is its part, in the same memory, cut along the first dimension as `torch.chunk` does.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parted: dict[str, Any] = {name: each for name, each in parameters.items() if _is_parted(each)}
        self.parameters = {
            name: nn.Parameter(self._parted[name].to_local().detach()) if name in self._parted else each
            for name, each in parameters.items()
        }

    @property
    def parts(self) -> list[nn.Parameter]:
        """Those of `parameters` that are parts."""
        return [self.parameters[name] for name in self._parted]

    def take_gradients(self) -> None:
        """Bring what a backward left of parted parameters to their parts here, added to what is there."""
        for name, whole in self._parted.items():
            if whole.grad is not None:
                own, found = self.parameters[name], whole.grad.to_local()
                own.grad = found if own.grad is None else own.grad.add_(found)
                whole.grad = None

    def pending(self, name: str, tensor: Tensor) -> Pending:
        """A parameter, or a tensor that belongs to one, to be written whole: each process must read it when it is."""
        whole = self._parted.get(name)
        if whole is None or tensor.shape != self.parameters[name].shape:
            return pending(tensor)

        def read() -> Tensor:
            from torch.distributed.tensor import DTensor

            options = {"shape": whole.shape, "stride": whole.stride(), "run_check": False}
            return DTensor.from_local(tensor.detach(), whole.device_mesh, whole.placements, **options).full_tensor()

        return Pending(dtype=tensor.dtype, shape=tuple(whole.shape), read=read)

    def shape(self, name: str) -> torch.Size:
        """The shape of a whole parameter."""
        return self._parted.get(name, self.parameters[name]).shape

    def own(self, name: str, tensor: Tensor) -> Tensor:
        """Of a whole tensor of a parameter what is kept here."""
        whole = self._parted.get(name)
        if whole is None or tensor.shape != whole.shape:
            return tensor
        chunks, rank = tensor.chunk(whole.device_mesh.size(), dim=0), whole.device_mesh.get_local_rank()
        return chunks[rank] if rank < len(chunks) else tensor[:0]


def _is_parted(parameter: Tensor) -> bool:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)
