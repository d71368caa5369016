"""A .bin, .pth or .pt file of torch.save: a pickle, so it is read with `weights_only=True` and never otherwise."""

import warnings
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from torch.nn import Parameter

from ..errors import WeightsError
from ..safe import open_file, refuse_pointer
from ..tying import find_tied
from .base import TensorFile, TensorInfo

_ZIP = b"PK\x03\x04"

# What torch.load raises on files that are cut, garbled or made to confuse it.
_LOAD_ERRORS = (
    UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    MemoryError,
    NotImplementedError,
)


class TorchFile(TensorFile):
    """An open file of torch.save that holds one dictionary of tensors. WeightsError for anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors: dict[str, Tensor] | None = _load(path)
        self.infos = {key: _info(tensor, path) for key, tensor in self._tensors.items()}
        self._tied = find_tied(self._tensors.items())

    @property
    def tied(self) -> dict[str, str]:
        return self._tied

    def view(self, key: str) -> Tensor:
        if self._tensors is None:
            self._tensors = _load(self.path)
        tensor = self._tensors.get(key)
        if tensor is None or _info(tensor, self.path) != self.infos[key]:
            raise WeightsError(f"{self.path}: changed since it was opened; open the checkpoint again")
        return tensor.detach()

    def read_into(self, key: str, out: Tensor) -> None:
        out.copy_(self.view(key))

    def close(self) -> None:
        self._tensors = None


def _load(path: Path) -> dict[str, Tensor]:
    with open_file(path) as file:
        head = file.read(32)
    refuse_pointer(head, path)
    mapped = head.startswith(_ZIP)  # the format before torch 1.6 can't be mapped
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # either it loads or it doesn't
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except _LOAD_ERRORS as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        if isinstance(error, UnpicklingError):
            reason = f"its pickle asks for more than plain tensors, nothing of it was run: {reason}"
        else:
            reason = f"damaged, or not from torch.save: {reason}"
        raise WeightsError(f"{path}: refused as a file of tensors ({reason})") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: must hold a dictionary of tensors, not {type(value).__name__}")
    for key, tensor in value.items():
        _check(key, tensor, path)
    return value


def _check(key: object, tensor: object, path: Path) -> None:
    if not isinstance(key, str):
        raise WeightsError(f"{path}: names must be strings, not {type(key).__name__}")
    where = f"{path}: {key[:200]!r}"
    if type(tensor) not in (Tensor, Parameter):
        raise WeightsError(f"{where} must be a tensor, not {type(tensor).__name__}")
    assert isinstance(tensor, Tensor)
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise WeightsError(f"{where} must be an ordinary dense tensor")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise WeightsError(f"{where} claims {tensor.nbytes} bytes, more than are stored for it")


def _info(tensor: Tensor, path: Path) -> TensorInfo:
    return TensorInfo(shape=tuple(tensor.shape), dtype=tensor.dtype, file=path, nbytes=tensor.nbytes)
