"""Folders of torch.save files to sepweight folders."""

from pathlib import Path

from .conversion import dump_file, matching_files
from .deciders import Decider
from .formats.torch_file import TorchFile


def convert_pth_files(in_path: str | Path, out_path: str | Path, decider: Decider, extension: str = ".pth") -> None:
    """Merges every file of the folder `in_path` with this extension into the sepweight folder `out_path`.

    `extension` is ".pth", ".bin" or another of torch.save's, with or without the dot. Files are read with
    `weights_only=True`. WeightsError when there are none, or two hold the same tensor.
    """
    for path in matching_files(in_path, extension):
        dump_file(TorchFile(path), out_path, decider)
