"""One checkpoint layout into another: tensor by tensor, and the new folder appears whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import llm_blocks
import llm_sepweight
from llm_blocks.loading import check_tied
from llm_blocks.names import to_hf_name
from llm_blocks.parameters import listed, pieces
from llm_blocks.saving import write_json, write_weights
from llm_cli.checkpoints import EMBEDDING, HEAD, MOST_PARTS, Checkpoint
from llm_cli.config_json import copied_config
from llm_cli.output import human_bytes
from llm_sepweight import atomic
from llm_sepweight.stored import Pending, target_dtype
from llm_tokenizer import Tokenizer

SHARD_BYTES = 5 * 10**9
TOKENIZER_NAMES = {".model": "tokenizer.model", ".bin": "tokenizer.bin", ".json": "tokenizer.json"}
LICENCE = re.compile(r"(LICENSE|LICENCE|NOTICE|USE_POLICY).*")


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
    with new_folder(source, destination, tokenizer) as new:
        if layout == "sepweight":
            _write_sepweight(new.path, source, dtype)
        else:
            write_weights(new.path, hf_tensors(source, dtype), max_shard_bytes=SHARD_BYTES)
        write_json(new.path / "config.json", copied_config(source, dtype, new.tokenizer))


@dataclass(frozen=True, kw_only=True)
class NewFolder:
    """A folder to fill: `files` by their paths in it are copied when all else is there.

    `tokenizer` is the one that was brought along in the place of the source's own.
    """

    path: Path
    files: dict[str, Path]
    tokenizer: Tokenizer | None


@contextmanager
def new_folder(source: Checkpoint, destination: Path, tokenizer: Path | None) -> Iterator[NewFolder]:
    """A folder that becomes `destination` when the block ends, with what stands beside the source's weights."""
    if source.kind == "sepweight":
        llm_sepweight.verify(source.path)  # the copy gets checksums of its own, which would vouch for the damage
    if source.config.tie_embeddings:
        check_tied(source.weights)  # others take the embedding for the head without a look
    files, brought = source.companions(), None
    if tokenizer is not None:
        replacing, brought = _brought_tokenizer(tokenizer, source)
        files = {name: path for name, path in files.items() if LICENCE.fullmatch(name)} | replacing
    with atomic.atomic_folder(destination) as folder:
        yield NewFolder(path=folder, files=files, tokenizer=brought)
        for name, path in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / name)


def told(source: Checkpoint, layout: str, folder: Path, dtype: torch.dtype | None = None) -> list[str]:
    """What to say of a copy that was made: its sizes, and what of the source it hasn't."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    lines = [f"{source.kind} to {layout}: {human_bytes(size)}, of them {human_bytes(source.nbytes(dtype))} tensors"]
    if source.left_out:
        parts = listed(source.parts_left_out, MOST_PARTS)
        lines.append(f"left out: {len(source.left_out):,} tensors ({parts}), which this project has no use for")
    return lines


def hf_tensors(source: Checkpoint, dtype: torch.dtype | None = None) -> dict[str, Pending]:
    """Each tensor under the name that published files have, to be read when its turn comes.

    Experts go one by one, as other readers expect them, also where the source has them stacked. What a model keeps
    exact is not converted.
    """
    table = llm_blocks.find(source.config.model_type).NAMES
    parts = pieces(source.skeleton)
    found: dict[str, Pending] = {}
    for name, stored in source.names().items():
        for own, piece in parts.get(name, {name: None}).items():
            wanted = None if own.endswith(source.skeleton.exact) else dtype
            found[to_hf_name(table, own)] = _pending(source, stored, piece, wanted)
    return found


def _pending(source: Checkpoint, stored: str, piece: Tensor | None, dtype: torch.dtype | None) -> Pending:
    """A tensor of the source, or the part of it that `piece` is a view of."""
    info = source.weights.info(stored)
    if piece is None:
        shape, read = info.shape, lambda: source.weights.read(stored)
    else:
        shape, read = tuple(piece.shape), lambda: _cut(source.weights.read(stored), piece)
    return Pending(dtype=target_dtype(info.dtype, dtype), shape=shape, read=read)


def _cut(whole: Tensor, piece: Tensor) -> Tensor:
    """The values of `whole` where `piece` lies in a tensor of its shape."""
    whole = whole.contiguous()
    return whole.as_strided(piece.size(), piece.stride(), whole.storage_offset() + piece.storage_offset())


def _write_sepweight(folder: Path, source: Checkpoint, dtype: torch.dtype | None) -> None:
    weights, tied = source.weights, dict(source.weights.tied)
    if source.config.tie_embeddings and not {EMBEDDING, HEAD} <= set(weights.names):
        tied |= {HEAD: EMBEDDING} if EMBEDDING in weights else {EMBEDDING: HEAD}
    tensors = weights if dtype is None else _converted(source, dtype)
    llm_sepweight.write(folder, tensors, tied=tied, num_layers=source.config.num_layers)


def _converted(source: Checkpoint, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The tensors one by one, all but the exact ones in another dtype."""
    for name in source.weights.names:
        own = source.weights.info(name).dtype
        keep = name in source.weights.tied or name.endswith(source.skeleton.exact)
        yield name, source.weights.read(name, dtype=None if keep else target_dtype(own, dtype))


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
    return {file.relative_to(path).as_posix(): file for file in tokenizer.files}, tokenizer
