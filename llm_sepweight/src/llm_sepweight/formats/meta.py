"""Meta's own layout: consolidated.00.pth …, where each file holds a slice of (nearly) every tensor.

The slices are those of tensor parallelism (Shoeybi et al. 2019): wq, wk, wv, w1, w3 and the output are cut along dim 0,
wo and w2 along dim 1, norms are repeated; the embedding is cut along dim 1 in Llama 1 and 2 and along dim 0 in Llama 3.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WeightsError
from ..safe import names_in
from .base import Found, TensorFile, TensorInfo
from .hf import from_file
from .torch_file import TorchFile

_FILE = re.compile(r"consolidated\.([0-9]{2})\.pth")
_CUT: tuple[tuple[str, int | None], ...] = (
    (r"layers\.[0-9]+\.attention\.w[qkv]\.weight", 0),
    (r"layers\.[0-9]+\.feed_forward\.w[13]\.weight", 0),
    (r"output\.weight", 0),
    (r"layers\.[0-9]+\.attention\.wo\.weight", 1),
    (r"layers\.[0-9]+\.feed_forward\.w2\.weight", 1),
    (r"(.+_)?norm\.weight|layers\.[0-9]+\.(attention|ffn)_norm\.weight|rope\.freqs", None),
)


def find(folder: Path) -> Found | None:
    """The weights of a folder with consolidated.*.pth files, under Meta's names, or None where there are none."""
    paths = [folder / name for name in names_in(folder) if _FILE.fullmatch(name)]
    if not paths:
        return None
    expected = [f"consolidated.{i:02d}.pth" for i in range(len(paths))]
    missing = [name for name in expected if name not in {path.name for path in paths}]
    if missing:
        raise WeightsError(f"{folder / missing[0]}: missing, though {paths[-1].name} is there")
    if len(paths) == 1:
        return from_file(paths[0], "meta", TorchFile)
    merged = MergedFile([TorchFile(path) for path in paths])
    return Found(layout="meta", path=folder, entries={key: (merged, key) for key in merged.infos})


class MergedFile(TensorFile):
    """Several files that hold the slices of the same tensors, read as one."""

    def __init__(self, files: list[TorchFile]) -> None:
        self.path, self._files = files[0].path, files
        for file in files[1:]:
            odd = set(file.infos) ^ set(files[0].infos)
            if odd:
                raise WeightsError(f"{file.path}: {min(odd)!r} is in only one of it and {self.path.name}")
        self._dims = {key: _cut_dim(key, files) for key in files[0].infos}
        self.infos = {key: self._merged_info(key) for key in self._dims}

    def _merged_info(self, key: str) -> TensorInfo:
        parts, dim = [file.infos[key] for file in self._files], self._dims[key]
        shape = list(parts[0].shape)
        for part in parts[1:]:
            if part.shape != parts[0].shape or part.dtype != parts[0].dtype:
                raise WeightsError(f"{part.file}: {key!r} isn't as in {self.path.name}: {part.shape} {part.dtype}")
        nbytes = parts[0].nbytes
        if dim is not None:
            if dim >= len(shape):
                raise WeightsError(f"{self.path}: {key!r} has no dimension {dim} along which to join it")
            shape[dim] *= len(parts)
            nbytes *= len(parts)
        return TensorInfo(shape=tuple(shape), dtype=parts[0].dtype, file=self.path, nbytes=nbytes)

    def view(self, key: str) -> Tensor:
        dim = self._dims[key]
        if dim is None:
            return self._files[0].view(key)
        return torch.cat([file.view(key) for file in self._files], dim)

    def read_into(self, key: str, out: Tensor) -> None:
        dim = self._dims[key]
        slices = [out] if dim is None else out.chunk(len(self._files), dim)
        for part, file in zip(slices, self._files, strict=False):
            part.copy_(file.view(key))

    def close(self) -> None:
        for file in self._files:
            file.close()


def _cut_dim(key: str, files: list[TorchFile]) -> int | None:
    """The dimension along which `key` is cut; None when each file has all of it."""
    infos = files[0].infos
    if key == "tok_embeddings.weight" and "output.weight" in infos:
        # The output is cut along the vocabulary, so its last size is the whole width C.
        return 0 if infos[key].shape[-1:] == infos["output.weight"].shape[-1:] else 1
    for pattern, dim in _CUT:
        if re.fullmatch(pattern, key):
            return dim
    raise WeightsError(f"{files[0].path}: {key!r} is in {len(files)} files and it isn't known how to join it")
