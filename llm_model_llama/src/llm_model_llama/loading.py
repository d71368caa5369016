"""Loading a Llama, and nothing else."""

from pathlib import Path

import torch

import llm_blocks
from llm_blocks import ArchitectureError
from llm_model_llama.llama import Config, Model
from llm_sepweight import PartSpec


def load(
    path: str | Path,
    part: str | PartSpec = "f",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trainable: bool = False,
) -> Model:
    """The Llama of the checkpoint folder `path`, or its `part` (e.g. "b 0-12"); see llm_blocks.load.

    Raises ArchitectureError for another model_type.
    """
    config = llm_blocks.load_config(path)
    if not isinstance(config, Config):
        found = config.model_type
        raise ArchitectureError(
            f"{path} has model_type {found!r}, not 'llama'; llm_blocks.load finds the package for it"
        )
    return llm_blocks.load(path, part, device=device, dtype=dtype, trainable=trainable)
