"""A checkpoint of any kind, told apart by its content: what it is and its tensors, none of them read yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import llm_blocks
import llm_sepweight
from llm_blocks.loading import require_layers
from llm_blocks.names import decider
from llm_cli.hub_files import SMALL
from llm_sepweight import Weights, WeightsError

EMBEDDING, HEAD = "begin.embed.weight", "end.head.weight"
PICKLES = (b"PK\x03\x04", b"\x80\x02")  # what torch.save writes today, and what it wrote before 1.6


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk. `raw` is its config.json; `weights` is None for formats that an importer reads."""

    kind: str  # "hf", "sepweight", or the name of an importer
    path: Path
    config: Any
    raw: dict[str, Any]
    weights: Weights | None
    imported: Iterator[tuple[str, Tensor]] | None = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Sectioned names and tensors, begin, layers upward, end; one in memory at a time, each stored one once."""
        if self.imported is not None:
            yield from self.imported
        elif self.weights is not None:
            skipped = self.weights.tied if self.config.tie_embeddings else {}
            for name in self.weights.names:
                if name not in skipped:
                    yield name, self.weights.read(name)

    def weight_files(self) -> list[Path]:
        """The files that hold the tensors."""
        if self.weights is not None:
            return sorted({self.weights.info(name).file for name in self.weights.names})
        return [self.path] if self.path.is_file() else sorted(self.path.glob("consolidated.*.pth"))

    def companions(self) -> list[Path]:
        """Tokenizer files, generation settings and licences beside the weights."""
        if self.path.is_file():
            return []
        unwanted = ("config.json", "params.json")
        return sorted(p for p in self.path.iterdir() if SMALL.fullmatch(p.name) and p.name not in unwanted)

    def skeleton(self) -> Any:
        """The model without memory behind it, for its shapes."""
        with torch.device("meta"):
            return llm_blocks.find(self.config.model_type).Model(self.config)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at a path. Raises ValueError (WeightsError, ArchitectureError) for anything it can't be."""
    if path.is_file():
        return _foreign(_file_kind(path), path)
    if (path / "config.json").exists():
        return _folder(path)
    if (path / "params.json").exists() and any(path.glob("consolidated.*.pth")):
        return _foreign("meta", path)
    if not path.exists():
        raise WeightsError(f"'{path}' does not exist; give a checkpoint folder, or a llama2.c .bin file")
    raise WeightsError(
        f"'{path}' is no checkpoint: it holds neither config.json nor Meta's params.json with consolidated.*.pth; "
        "give the folder that does"
    )


def _folder(path: Path) -> Checkpoint:
    raw = llm_blocks.read_config(path)
    architecture = llm_blocks.find(raw.get("model_type"))
    config = architecture.Config.from_hf(raw)
    weights = llm_sepweight.open(path, decider=decider(architecture.NAMES, source=path))
    kind = "sepweight" if weights.layout.startswith("sepweight") else "hf"
    found = Checkpoint(kind=kind, path=path, config=config, raw=raw, weights=weights)
    _check_shapes(found, weights)
    return found


def _check_shapes(found: Checkpoint, weights: Weights) -> None:
    """Every tensor that the configuration asks for is there, in its shape; a tied head may be left out."""
    require_layers(weights, range(found.config.num_layers))  # before a module is made for each that is claimed
    for name, parameter in found.skeleton().named_parameters():
        if name not in weights:
            raise WeightsError(f"'{found.path}' lacks {name}, which config.json says the model has; download it again")
        info = weights.info(name)
        if tuple(info.shape) != tuple(parameter.shape):
            raise WeightsError(
                f"'{info.file}' holds {name} with shape {tuple(info.shape)} where config.json asks for "
                f"{tuple(parameter.shape)}; the two are of different models"
            )


def _foreign(kind: str, path: Path) -> Checkpoint:
    config, tensors = llm_blocks.find_importer(kind)(path)
    return Checkpoint(kind=kind, path=path, config=config, raw=config.to_hf(), weights=None, imported=tensors)


def _file_kind(path: Path) -> str:
    """The importer for a single file; a pickle is never opened here."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(PICKLES) or path.suffix in (".safetensors", ".pth", ".pt"):
        raise WeightsError(f"'{path}' holds tensors without their configuration; give the folder that has config.json")
    return "llama2c"
