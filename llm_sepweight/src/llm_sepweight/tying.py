"""Tensors that are one and the same memory."""

from collections.abc import Iterable

from torch import Tensor


def find_tied(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Names whose tensor is the same memory as an earlier one's -> the name of that one.

    All must be alive at once: the address of a freed tensor may be another's.
    """
    first: dict[object, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in tensors:
        if not tensor.numel() or tensor.is_meta:
            continue  # without memory
        memory = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        stored = first.setdefault(memory, name)
        if stored != name:
            tied[name] = stored
    return tied
