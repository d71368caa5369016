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
from llm_blocks.checking import check, require_layers
from llm_blocks.loading import open_checkpoint as open_weights
from llm_blocks.meta import without_storage
from llm_blocks.slices import part_layers
from llm_cli.hub_files import SMALL
from llm_sepweight import Weights, WeightsError, split_name
from llm_sepweight.stored import target_dtype
from llm_sepweight.unread import why_unread

EMBEDDING, HEAD = "begin.embed.weight", "end.head.weight"
TEMPLATES = "additional_chat_templates"
MOST_PARTS = 20  # of what is left out, to be listed: a stranger's file may have any number


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk. `raw` is its config.json, or what that would be in a foreign format.

    `left_out` has the file's names of tensors that the architecture has no use for, such as those of an image tower.
    `part` is what the weights are of the model: everything (f), unless a part was allowed when it was opened.
    `quantization` says how layers are stored as whole numbers (llm_quant.formats), None unless that was allowed.
    """

    kind: str  # "hf", "sepweight", or the name of an importer
    path: Path
    config: Any
    raw: dict[str, Any]
    weights: Weights
    left_out: tuple[str, ...] = ()
    part: str = "f"
    quantization: Any = None

    @property
    def parts_left_out(self) -> list[str]:
        """What is left out, by the beginnings of the names: vision_tower, or layers.61."""
        return list(dict.fromkeys(map(_beginning, self.left_out)))

    @cached_property
    def skeleton(self) -> Any:
        """The model without memory behind it, for its shapes; also quantized layers have those of their numbers."""
        return self.new_skeleton()

    def new_skeleton(self) -> Any:
        """Another one of the same."""
        with without_storage():
            return llm_blocks.find(self.config.model_type).Model(self.config, self.part)

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


def open_checkpoint(path: Path, *, partial: bool = False, quantized: bool = False) -> Checkpoint:
    """The checkpoint at a path. Raises ValueError (WeightsError, ArchitectureError) for anything it can't be.

    `partial` takes a sepweight folder that holds a part of the model too, as a host has that runs some of its layers;
    `quantized` one whose layers are stored as whole numbers.
    """
    _require_kind(path)
    opened = open_weights(path)
    if opened.quantization is not None and not quantized:
        raise ValueError(
            f"'{path}' is quantized ({opened.quantization}), and in this version such a folder runs but is neither "
            "converted, exported nor quantized again; take the unquantized checkpoint"
        )
    _require_same_depth(opened.weights, opened.config)
    part = _part_of(opened.weights) if partial and opened.kind == "sepweight" else "f"
    _, layers = part_layers(part, opened.config.num_layers)
    found = Checkpoint(
        kind=opened.kind,
        path=path,
        config=opened.config,
        raw=opened.raw,
        weights=opened.weights,
        left_out=opened.left_out,
        part=part,
        quantization=opened.quantization,
    )
    require_layers(found.weights, layers)  # before a module is made for each that is claimed
    _check(found)
    return found


def _check(found: Checkpoint) -> None:
    """Compare the headers of all tensors with the model."""
    if found.quantization is None:
        check(found.skeleton, found.weights)
        return
    from llm_blocks.quantized import take_out

    model = found.new_skeleton()
    check(model, take_out(model, found.weights, found.quantization)[0])


def _require_same_depth(weights: Weights, config: Any) -> None:
    if weights.layout == "sepweight" and weights.num_layers != config.num_layers:
        raise WeightsError(
            f"{weights.path}: sepweight.json says {weights.num_layers} layers and config.json {config.num_layers}; "
            "bring both files from one and the same copy of the model"
        )


def _part_of(weights: Weights) -> str:
    """The part spec of the sections that are there: "f" for all of them, and where they are no piece that could run."""
    stored = [name for name in weights.names if name not in weights.tied]  # a tied head is at hand without an end
    sections = {split_name(name)[0] for name in stored}
    layers = [layer for kind, layer in sections if kind == "mid"]
    begin, end = ((kind, 0) in sections for kind in ("begin", "end"))
    mid = [f"{min(layers)}-{max(layers) + 1}"] if layers else []
    spec = " ".join(["b"] * begin + mid + ["e"] * end)
    try:
        _, run = part_layers(spec, weights.num_layers)
    except ValueError:
        return "f"
    return "f" if begin and end and len(run) == weights.num_layers else spec


def _require_kind(path: Path) -> None:
    if (path / "config.json").exists() or (path.exists() and claimed_by(path) is not None):
        return
    if not path.exists():
        raise WeightsError(f"'{path}' does not exist; give a checkpoint folder, or a llama2.c .bin file")
    unread = why_unread(path)
    if unread is not None:
        raise WeightsError(unread)
    if path.is_file():
        raise WeightsError(
            f"'{path}' is no checkpoint by itself, as a llama2.c .bin file is; give the folder that has config.json"
        )
    raise WeightsError(
        f"'{path}' is no checkpoint: it holds neither config.json nor Meta's params.json with consolidated.*.pth; "
        "give the folder that does"
    )


def _beginning(name: str) -> str:
    """`vision_tower` of `model.vision_tower.embed.weight`, and `layers.61` of `model.layers.61.norm.weight`."""
    words = name.removeprefix("model.").split(".", 2)
    return ".".join(words[:2] if words[1:2] and words[1].isdigit() else words[:1])[:200]
