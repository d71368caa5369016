"""A checkpoint as the folder that transformers and its kin read, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_blocks.loading import main_dtype
from llm_blocks.saving import write_json, write_weights
from llm_cli.checkpoints import Checkpoint
from llm_cli.conversion import SHARD_BYTES, dtype_name, hf_tensors, new_folder
from llm_cli.source import find_tokenizer, special_ids
from llm_sepweight.stored import Pending
from llm_tokenizer import Tokenizer, TokenizerError

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What a source may say beside its architecture, and what training or a tokenizer would miss. Nothing that names code.
CARRIED = (
    *IDS,
    "sep_token_id",
    "decoder_start_token_id",
    "tokenizer_class",
    "initializer_range",
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "use_cache",
)
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
        tensors = {name: _told(tensor, wrote) for name, tensor in hf_tensors(source, dtype).items()}
        write_weights(new.path, tensors, max_shard_bytes=max_shard_bytes)
        config = hf_config(source, dtype, new.tokenizer)
        write_json(new.path / "config.json", config)
        ids = {name: config[name] for name in IDS if name in config}
        if ids and GENERATION not in new.files:  # it is where readers of today look for the ids that end a text
            write_json(new.path / GENERATION, ids)


def hf_config(
    source: Checkpoint, dtype: torch.dtype | None = None, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The config.json as transformers spells it today, with the source's token ids or those of `tokenizer`."""
    text = source.raw.get("text_config")  # a model of several kinds has its decoder's there
    stated = {**(text if isinstance(text, Mapping) else {}), **source.raw}
    said = {key: stated[key] for key in CARRIED if stated.get(key) is not None}
    if tokenizer is None and source.kind not in ("hf", "sepweight"):
        tokenizer = _own_tokenizer(source.path)
    told = {} if tokenizer is None else special_ids(tokenizer)
    name = dtype_name(dtype or main_dtype(source.weights))
    return {**said, **told, **source.config.to_hf(), "dtype": name}


def _own_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer beside foreign weights, which alone knows the ids there; None where there is none to be read."""
    try:
        return None if path.is_file() else find_tokenizer(path)
    except TokenizerError:
        return None


def _told(tensor: Pending, wrote: Callable[[int], None]) -> Pending:
    def read() -> Tensor:
        value = tensor.read()
        wrote(tensor.nbytes)
        return value

    return replace(tensor, read=read)
