"""Comparing a model with the names and shapes that a checkpoint has, before any tensor is read."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llm_blocks.architectures import find
from llm_blocks.mlp import Experts
from llm_blocks.names import to_hf_name
from llm_blocks.parameters import listed, pieces, shared_names
from llm_sepweight import Weights, WeightsError, split_name
from llm_sepweight.layout import section_file

EMBEDDING, HEAD = "begin.embed.weight", "end.head.weight"


def require_layers(weights: Weights, layers: range, *, source: str = "config.json") -> None:
    """WeightsError unless the sectioned `weights` have each of these layers, which the file `source` asks for.

    To be called before modules are made: the file may claim any number of layers, and each costs time and memory.
    """
    present = {split_name(name)[0] for name in weights.names}
    missing = next((layer for layer in layers if ("mid", layer) not in present), None)
    if missing is not None:
        what = f"layer {missing} (mid.{missing}.*), which {source} says the model has"
        _refuse_missing_file(weights, f"mid.{missing}.*", what)
        raise WeightsError(f"{weights.path}: lacks {what}")


def _refuse_missing_file(weights: Weights, name: str, what: str) -> None:
    """WeightsError where a folder with a file for each section has no file for that of the sectioned `name`."""
    extension = {"sepweight": ".safetensors", "sepweight-pth": ".pth"}.get(weights.layout)
    section, _ = split_name(name)
    stored = set(weights.names) - weights.tied.keys()  # a tied tensor lies in another section's file
    if extension is not None and all(split_name(other)[0] != section for other in stored):
        file = weights.path / section_file(section, extension)
        raise WeightsError(f"{file}: missing, though it should hold {what}; copy it there too")


def check(model: Any, weights: Weights) -> dict[str, str]:
    """Compare a model, which may be on the meta device, with the headers of sectioned `weights`.

    Gives the name of each parameter, or of each piece of one that is stored in pieces -> the name in the weights that
    holds it. WeightsError for a tensor that is missing, unexpected, quantized or of another shape.
    """
    sources = _sources(model, weights)
    _compare(model, weights, sources)
    return sources


def _sources(model: Any, weights: Weights) -> dict[str, str]:
    """The first name of each parameter, or each of its pieces -> the name in the weights that holds it."""
    _require_experts(model, weights)
    sources: dict[str, str] = {}
    tied = {EMBEDDING, HEAD} if model.config.tie_embeddings else set()
    parts = pieces(model)
    for names in shared_names(model):
        if names[0] in parts and names[0] not in weights:
            sources |= {piece: piece for piece in parts[names[0]]}
            continue
        wanted = (EMBEDDING, HEAD) if tied.intersection(names) else names  # a file may have either
        sources[names[0]] = next((name for name in wanted if name in weights), names[0])
    missing = [name for name, source in sources.items() if source not in weights]
    if missing:
        _refuse_missing(model, weights, missing)
    return sources


def _refuse_missing(model: Any, weights: Weights, missing: list[str]) -> None:
    """WeightsError for names that no file has, and where to get them."""
    names = _names_of_missing(model, weights, missing)
    _refuse_missing_file(weights, missing[0], f"{listed(names)}, which config.json says the model has")
    if model.config.tie_embeddings and missing == [HEAD]:
        embedding = _names_of_missing(model, weights, [EMBEDDING])[0]
        raise WeightsError(
            f"{weights.path}: lacks the embedding {embedding}, which the end needs for its head, because config.json "
            f"ties the two; put the file that holds it there too (python -m llm_sepweight.filenames '{model.part}' "
            "--path FOLDER lists the files that a part of a sepweight FOLDER needs)"
        )
    raise WeightsError(f"{weights.path}: lacks {listed(names)}, which config.json says the model has")


def _has_hf_names(weights: Weights) -> bool:
    """Whether the files have Hugging Face's names: sepweight files have ours, a foreign format perhaps its own."""
    return weights.layout.startswith(("safetensors", "bin"))


def name_in_file(weights: Weights, name: str) -> str:
    """A tensor that is there as its file calls it, with our name beside."""
    if not _has_hf_names(weights):
        return name[:200]
    return f"{weights.key(name)[:200]} (here {name[:200]})"


def _names_of_missing(model: Any, weights: Weights, names: Iterable[str]) -> list[str]:
    """Tensors that aren't there as published files call them, with our names beside."""
    if not _has_hf_names(weights):
        return list(names)
    table = find(model.config.model_type).NAMES
    found: list[str] = []
    for name in names:
        try:
            found.append(f"{to_hf_name(table, name)} (here {name})")
        except ValueError:  # experts that lie in one parameter have no name in the table
            found.append(name)
    return found


def _require_experts(model: Any, weights: Weights) -> None:
    """WeightsError for more experts than there are tensors: config.json may claim many, and each piece has a name."""
    found = ((path, module) for path, module in model.named_modules() if isinstance(module, Experts))
    wanted = sum(3 * module.down.size(0) for path, module in found if f"{path}.down" not in weights)
    if wanted > len(weights.names):
        raise WeightsError(
            f"{weights.path}: holds {len(weights.names)} tensors, too few for the {wanted} of experts alone that "
            "config.json asks for"
        )


def _compare(model: Any, weights: Weights, sources: dict[str, str]) -> None:
    shapes: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for name, parts in pieces(model).items():
        if name not in sources:
            del shapes[name]
            shapes |= parts
    sections = {name.rpartition(".")[0].split(".")[0] for name in shapes} - {"mid"}
    sections |= {".".join(name.split(".")[:2]) for name in shapes if name.startswith("mid.")}
    for name in weights.names:
        words = name.split(".")
        section = ".".join(words[:2]) if words[0] == "mid" else words[0]
        beyond = words[0] == "mid" and int(words[1]) >= model.config.num_layers
        tied_head = name == HEAD and model.config.tie_embeddings
        if (section in sections or beyond) and name not in shapes and not tied_head:
            shown = name_in_file(weights, name)
            raise WeightsError(f"{weights.info(name).file}: holds {shown}, which config.json says the model hasn't")
    for name, source in sources.items():
        info, shape = weights.info(source), tuple(shapes[name].shape)
        if tuple(info.shape) == shape and not is_quantized(info.dtype):
            continue
        shown = name_in_file(weights, source)
        if tuple(info.shape) != shape:
            raise WeightsError(f"{info.file}: {shown} has shape {tuple(info.shape)}, config.json asks for {shape}")
        raise WeightsError(f"{info.file}: {shown} is {info.dtype}; quantized weights are not supported here")


def is_quantized(dtype: torch.dtype) -> bool:
    """Whether nothing is computed in this dtype, so that its values stand for others."""
    return not dtype.is_floating_point or dtype.itemsize == 1
