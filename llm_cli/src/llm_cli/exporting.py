"""A checkpoint as the folder that transformers and its kin read, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_blocks.saving import write_json, write_weights
from llm_cli.checkpoints import Checkpoint
from llm_cli.config_json import IDS, hf_config
from llm_cli.conversion import SHARD_BYTES, NewFolder, hf_tensors, new_folder
from llm_sepweight.stored import Pending

GENERATION = "generation_config.json"


def export_hf(
    source: Checkpoint,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = SHARD_BYTES,
    tokenizer: Path | None = None,
    wrote: Callable[[int], None] = lambda nbytes: None,
) -> None:
    """Write `source` as a new Hugging Face folder: safetensors in shards, config.json in today's spelling, companions.

    dtype None keeps every tensor's bytes. `tokenizer` is a file or folder that takes the place of the source's own;
    `wrote` is told the bytes of each tensor as it goes into a file. Raises WeightsError where the destination is taken
    or the source is damaged as far as its checksums tell, ValueError for a tokenizer that doesn't fit.
    """
    with new_folder(source, destination, tokenizer) as new:
        tensors = {name: reported(tensor, wrote) for name, tensor in hf_tensors(source, dtype).items()}
        write_weights(new.path, tensors, max_shard_bytes=max_shard_bytes)
        config = hf_config(source, dtype, new.tokenizer)
        write_json(new.path / "config.json", config)
        write_ids(new, config)


def write_ids(new: NewFolder, config: Mapping[str, Any]) -> None:
    """Put the token ids of a config.json where readers of today look for those that end a text, if nothing is there."""
    ids = {name: config[name] for name in IDS if name in config}
    if ids and GENERATION not in new.files:
        write_json(new.path / GENERATION, ids)


def reported(tensor: Pending, wrote: Callable[[int], None]) -> Pending:
    """The same tensor, whose bytes are told when it is read."""

    def read() -> Tensor:
        value = tensor.read()
        wrote(tensor.nbytes)
        return value

    return replace(tensor, read=read)
