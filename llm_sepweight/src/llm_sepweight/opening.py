"""`open`: finds out which layout a checkpoint has."""

from pathlib import Path

from .deciders import Decider
from .errors import WeightsError
from .formats import hf, meta, sep
from .formats.base import Found
from .formats.safetensors_file import SafetensorsFile
from .formats.torch_file import TorchFile
from .unread import why_unread
from .weights import Weights


def open(path: str | Path, *, decider: Decider | None = None) -> Weights:
    """Opens a checkpoint: a sepweight folder, a Hugging Face folder, Meta's consolidated.*.pth, or one such file.

    Headers are read and checked, tensors are not read. With a `decider` the names are those that it gives; without,
    they are the file's own (a sepweight folder has its sections already, so a decider isn't asked there).
    WeightsError names the file, the tensor and the rule when something is missing, damaged or hostile.
    """
    path = Path(path)
    weights = Weights(_find(path))
    return weights if decider is None else weights.sectioned(decider)


def _find(path: Path) -> Found:
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    if not path.is_dir():
        return _find_file(path)
    for find in (sep.find, hf.find, meta.find):
        found = find(path)
        if found is not None:
            if not found.entries:
                raise WeightsError(f"{path}: holds no tensors")
            return found
    raise WeightsError(why_unread(path) or f"{path}: no weights here; looked for {', '.join(_LOOKED_FOR)}")


_LOOKED_FOR = (
    "sepweight.json",
    "begin.pth",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "consolidated.00.pth",
)


def _find_file(path: Path) -> Found:
    if path.suffix == ".safetensors":
        return hf.from_file(path, "safetensors", SafetensorsFile)
    if path.suffix in (".bin", ".pth", ".pt"):
        return hf.from_file(path, "bin", TorchFile)
    raise WeightsError(
        why_unread(path) or f"{path}: not a kind of file with weights; known are .safetensors, .bin, .pth and .pt"
    )
