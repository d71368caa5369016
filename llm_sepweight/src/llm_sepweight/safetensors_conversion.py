"""Folders of safetensors files to sepweight folders."""

from pathlib import Path

from .conversion import dump_file, matching_files
from .deciders import Decider
from .formats.safetensors_file import SafetensorsFile


def convert_safetensors_files(in_path: str | Path, out_path: str | Path, decider: Decider) -> None:
    """Merges every .safetensors file of the folder `in_path` into the sepweight folder `out_path`.

    WeightsError when there are none, or two hold the same tensor.
    """
    for path in matching_files(in_path, ".safetensors"):
        dump_file(SafetensorsFile(path), out_path, decider)
