"""A Hugging Face folder: one file of weights, or several with an index that says which tensor is in which."""

from collections.abc import Callable
from pathlib import Path

from ..errors import WeightsError
from ..safe import named_files, read_json
from .base import Found, TensorFile
from .safetensors_file import SafetensorsFile
from .torch_file import TorchFile

# In transformers' order of preference: file, index, layout, how a file is opened
_KINDS: tuple[tuple[str, str, Callable[[Path], TensorFile]], ...] = (
    ("model.safetensors", "safetensors", SafetensorsFile),
    ("pytorch_model.bin", "bin", TorchFile),
)


def find(folder: Path) -> Found | None:
    """The weights of a Hugging Face folder, or None where there are none."""
    for name, layout, open_file in _KINDS:
        if (folder / name).exists():
            return from_file(folder / name, layout, open_file)
        index = folder / f"{name}.index.json"
        if index.exists():
            return _from_index(index, layout, open_file)
    return None


def from_file(path: Path, layout: str, open_file: Callable[[Path], TensorFile]) -> Found:
    """All tensors of one file."""
    file = open_file(path)
    return Found(layout=layout, path=path, entries={key: (file, key) for key in file.infos}, tied=dict(file.tied))


def _from_index(index: Path, layout: str, open_file: Callable[[Path], TensorFile]) -> Found:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: 'weight_map' must be an object that maps each tensor to its file")
    suffix = ".safetensors" if layout == "safetensors" else ".bin"
    paths = named_files(index.parent, weight_map.values(), (suffix,), index)
    files = {name: open_file(path) for name, path in paths.items()}
    for key, name in weight_map.items():
        if key not in files[name].infos:
            raise WeightsError(f"{files[name].path}: lacks tensor {key[:200]!r}, which {index.name} says is there")
    return Found(
        layout=f"{layout}-sharded",
        path=index.parent,
        entries={key: (files[name], key) for key, name in weight_map.items()},
        tied={k: v for file in files.values() for k, v in file.tied.items() if k in weight_map and v in weight_map},
    )
