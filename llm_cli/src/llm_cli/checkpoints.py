"""A checkpoint of any kind, told apart by its content: what it is and its tensors, none of them read yet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import llm_blocks
from llm_blocks.architectures import claimed_by
from llm_blocks.loading import check, require_layers
from llm_blocks.loading import open_checkpoint as open_weights
from llm_blocks.meta import without_storage
from llm_cli.hub_files import SMALL
from llm_sepweight import Weights, WeightsError
from llm_sepweight.stored import target_dtype

EMBEDDING, HEAD = "begin.embed.weight", "end.head.weight"
TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk. `raw` is its config.json, or what that would be in a foreign format."""

    kind: str  # "hf", "sepweight", or the name of an importer
    path: Path
    config: Any
    raw: dict[str, Any]
    weights: Weights

    @cached_property
    def skeleton(self) -> Any:
        """The model without memory behind it, for its shapes."""
        with without_storage():
            return llm_blocks.find(self.config.model_type).Model(self.config)

    def names(self) -> dict[str, str]:
        """The name of each tensor to copy -> the name that stores it: begin, layers upward, end.

        Where the embedding and the head are stored as one, it is there once and goes by the embedding's name.
        """
        names = {name: name for name in self.weights.names}
        if self.config.tie_embeddings and {EMBEDDING, HEAD} & self.weights.tied.keys():
            del names[HEAD]
        elif self.config.tie_embeddings and EMBEDDING not in names:
            names = {EMBEDDING: names.pop(HEAD), **names}
        return names

    def nbytes(self, dtype: torch.dtype | None = None) -> int:
        """Bytes of the tensors to copy, with the floating ones converted to `dtype`."""
        infos = map(self.weights.info, self.names().values())
        return sum(target_dtype(info.dtype, dtype).itemsize * math.prod(info.shape) for info in infos)

    def weight_files(self) -> list[Path]:
        """The files that hold the tensors."""
        if self.path.is_dir() and self.kind not in ("hf", "sepweight"):  # its tensors may be spread over several
            return sorted(self.path.glob("consolidated.*.pth"))
        return sorted({self.weights.info(name).file for name in self.weights.names})

    def companions(self) -> dict[str, Path]:
        """Tokenizer files, generation settings and licences beside the weights, by their paths in the folder."""
        if self.path.is_file():
            return {}
        unwanted = ("config.json", "params.json")
        found = {p.name: p for p in sorted(self.path.iterdir()) if SMALL.fullmatch(p.name) and p.name not in unwanted}
        return found | {f"{TEMPLATES}/{p.name}": p for p in sorted((self.path / TEMPLATES).glob("*.jinja"))}


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path. Raises ValueError (WeightsError, ArchitectureError) for anything it can't be."""
    _require_kind(path)
    opened = open_weights(path)
    found = Checkpoint(kind=opened.kind, path=path, config=opened.config, raw=opened.raw, weights=opened.weights)
    require_layers(found.weights, range(found.config.num_layers))  # before a module is made for each that is claimed
    check(found.skeleton, found.weights)
    return found


def _require_kind(path: Path) -> None:
    if (path / "config.json").exists() or (path.exists() and claimed_by(path) is not None):
        return
    if not path.exists():
        raise WeightsError(f"'{path}' does not exist; give a checkpoint folder, or a llama2.c .bin file")
    if path.is_file():
        raise WeightsError(
            f"'{path}' is no checkpoint by itself, as a llama2.c .bin file is; give the folder that has config.json"
        )
    raise WeightsError(
        f"'{path}' is no checkpoint: it holds neither config.json nor Meta's params.json with consolidated.*.pth; "
        "give the folder that does"
    )
