"""One checkpoint layout into another: tensor by tensor, and the new folder appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import llm_blocks
import llm_sepweight
from llm_blocks.names import to_hf_name
from llm_cli.checkpoints import EMBEDDING, HEAD, Checkpoint
from llm_cli.source import find_tokenizer, special_ids
from llm_sepweight import atomic
from llm_tokenizer import Tokenizer

SHARD_BYTES = 2 * 10**9  # what a conversion to the Hugging Face layout holds in memory at most
TOKENIZER_NAMES = {".model": "tokenizer.model", ".bin": "tokenizer.bin", ".json": "tokenizer.json"}


def convert(
    source: Checkpoint,
    destination: Path,
    *,
    layout: str,
    dtype: torch.dtype | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write `source` as the new folder `destination`, in the layout "sepweight" or "hf".

    dtype None keeps every tensor's bytes. `tokenizer` is a file or folder that takes the place of the source's own.
    Raises WeightsError where the destination is taken or the source is damaged as far as its checksums tell,
    ValueError for a tokenizer that doesn't fit.
    """
    if source.kind == "sepweight":
        llm_sepweight.verify(source.path)  # the copy gets checksums of its own, which would vouch for the damage
    brought = None if tokenizer is None else _brought_tokenizer(tokenizer, source)
    with atomic.atomic_folder(destination) as folder:
        if layout == "sepweight":
            _write_sepweight(folder, source, dtype)
        else:
            _write_hf(folder, source, dtype)
        files = {path.name: path for path in source.companions()}
        if brought is not None:
            files = {name: path for name, path in files.items() if name not in _names(source)} | brought[0]
        for name, path in files.items():
            shutil.copyfile(path, folder / name)
        _write_config(folder / "config.json", source, dtype, brought[1] if brought is not None else None)


def _write_sepweight(folder: Path, source: Checkpoint, dtype: torch.dtype | None) -> None:
    tensors = source.weights if source.weights is not None else source.tensors()
    stored_head = source.weights is not None and HEAD in source.weights
    tied = {HEAD: EMBEDDING} if source.config.tie_embeddings and not stored_head else None
    llm_sepweight.write(folder, tensors, dtype=dtype, tied=tied, num_layers=source.config.num_layers)


def _write_hf(folder: Path, source: Checkpoint, dtype: torch.dtype | None) -> None:
    """Shards of at most SHARD_BYTES, renamed once their number is known, and the index when there are several."""
    names = llm_blocks.find(source.config.model_type).NAMES
    shards: list[list[str]] = []
    total = 0
    for shard in _shards(source.tensors(), dtype):
        tensors = {to_hf_name(names, name): tensor for name, tensor in shard.items()}
        llm_sepweight.write_safetensors(folder / _shard(len(shards), 0), tensors, metadata={"format": "pt"})
        shards.append(list(tensors))
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) == 1:
        (folder / _shard(0, 0)).rename(folder / "model.safetensors")
        return
    files = [_shard(i, len(shards)) for i in range(len(shards))]
    for i, file in enumerate(files):
        (folder / _shard(i, 0)).rename(folder / file)
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shard(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _shards(tensors: Iterator[tuple[str, Tensor]], dtype: torch.dtype | None) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        converted = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        if shard and size + converted.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = converted
        size += converted.nbytes
    yield shard


def _write_config(path: Path, source: Checkpoint, dtype: torch.dtype | None, tokenizer: Tokenizer | None) -> None:
    raw = dict(source.raw)
    if dtype is not None or source.weights is None:
        raw["torch_dtype" if "torch_dtype" in raw else "dtype"] = _dtype_name(dtype, source)
    if tokenizer is not None:
        raw |= special_ids(tokenizer)
    _write_json(path, raw)


def _dtype_name(dtype: torch.dtype | None, source: Checkpoint) -> str:
    # An importer gives the tensors as they are stored: fp32 in llama2.c, and in Meta's files what the first one has.
    if dtype is None and source.kind != "llama2c":
        with llm_sepweight.open(source.path) as weights:
            dtype = weights.info(weights.names[0]).dtype
    return str(dtype or torch.float32).removeprefix("torch.")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _brought_tokenizer(path: Path, source: Checkpoint) -> tuple[dict[str, Path], Tokenizer]:
    """The files of a tokenizer by the names they take in the folder, and the tokenizer itself."""
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > source.config.vocab_size:
        raise ValueError(
            f"the tokenizer '{path}' has {tokenizer.vocab_size:,} tokens and the model {source.config.vocab_size:,}; "
            "give the tokenizer that the model was trained with"
        )
    if path.is_file():
        return {TOKENIZER_NAMES[path.suffix]: path}, tokenizer
    return {file.name: file for file in tokenizer.files}, tokenizer


def _names(source: Checkpoint) -> set[str]:
    """The names of the source's own tokenizer files, which a brought one replaces."""
    own = None if source.path.is_file() else find_tokenizer(source.path)
    return set() if own is None else {file.name for file in own.files}
