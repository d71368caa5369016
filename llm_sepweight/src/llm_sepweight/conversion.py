"""What the two conversions from folders of files share."""

from pathlib import Path

from .deciders import Decider
from .dumping import dump
from .errors import WeightsError
from .formats.base import TensorFile


def matching_files(in_path: str | Path, extension: str) -> list[Path]:
    """The files with an extension (with or without its dot), sorted by name; the path itself if it is such a file."""
    path, extension = Path(in_path), "." + extension.lstrip(".")
    if path.is_file():
        return [path]
    files = sorted(file for file in path.glob(f"*{extension}") if file.is_file())
    if not files:
        raise WeightsError(f"{path}: has no {extension} files")
    return files


def dump_file(file: TensorFile, out_path: str | Path, decider: Decider) -> None:
    """Adds all tensors of one file to a sepweight folder."""
    dump(decider, {key: file.view(key) for key in file.infos}, out_path)
    file.close()
