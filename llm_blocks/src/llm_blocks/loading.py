"""Reading a checkpoint folder into the Model of its architecture, or into a part of it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import llm_sepweight
from llm_blocks.architectures import find
from llm_blocks.names import decider
from llm_blocks.parameters import assign, listed, pieces, shared_names
from llm_blocks.slices import part_layers
from llm_sepweight import PartSpec, Weights, WeightsError, split_name

_EMBEDDING, _HEAD = "begin.embed.weight", "end.head.weight"


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a checkpoint folder; WeightsError names the file when it is missing or malformed."""
    return dict(llm_sepweight.read_json(Path(path) / "config.json"))


def load(
    path: str | Path,
    part: str | PartSpec = "f",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trainable: bool = False,
) -> Any:
    """The Model of the checkpoint folder `path`, or its `part` (e.g. "b 0-12"), in evaluation mode.

    The folder is read in place, tensor by tensor, in any layout that llm_sepweight reads. dtype None means the
    checkpoint's own: the one that takes the most bytes. Raises ArchitectureError for an unknown model_type, ValueError
    for a config.json or a part that can't be honoured, WeightsError for a tensor that is missing, unexpected or of
    another shape than config.json says.
    """
    path = Path(path)
    raw = read_config(path)
    architecture = find(raw.get("model_type"))
    config = architecture.Config.from_hf(raw)
    _, layers = part_layers(part, config.num_layers)
    with llm_sepweight.open(path, decider=decider(architecture.NAMES, source=path)) as weights:
        require_layers(weights, layers)
        with torch.device("meta"):
            model = architecture.Model(config, part)
        fill(model, weights, device=device, dtype=dtype, trainable=trainable)
    return model.eval()


def require_layers(weights: Weights, layers: range, *, source: str = "config.json") -> None:
    """WeightsError unless the sectioned `weights` have each of these layers, which the file `source` asks for.

    To be called before modules are made: the file may claim any number of layers, and each costs time and memory.
    """
    present = {split_name(name)[0] for name in weights.names}
    missing = next((layer for layer in layers if ("mid", layer) not in present), None)
    if missing is not None:
        raise WeightsError(f"{weights.path}: lacks mid.{missing}.*, which {source} says the model has")


def fill(
    model: Any,
    weights: Weights,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    trainable: bool = False,
) -> None:
    """Give a model built on the meta device its tensors of sectioned `weights`; all is checked before any is read."""
    sources = _sources(model, weights)
    _check(model, weights, sources)
    if model.config.tie_embeddings and model.end is not None:
        _check_tied(weights)
    dtype = dtype or _main_dtype(weights)
    shapes = dict(model.named_parameters(remove_duplicate=False))

    def read(names: list[str]) -> Tensor:
        if names[0] not in sources:  # its pieces are read into it below
            return torch.empty(shapes[names[0]].shape, dtype=dtype, device=device)
        return weights.read(sources[names[0]], dtype=dtype, device=device)

    assign(model, read, trainable=trainable)
    for parts in pieces(model).values():
        for name, view in parts.items():
            if name in sources:
                weights.read(sources[name], out=view)


def _sources(model: Any, weights: Weights) -> dict[str, str]:
    """The first name of each parameter, or each of its pieces -> the name in the weights that holds it."""
    sources: dict[str, str] = {}
    tied = {_EMBEDDING, _HEAD} if model.config.tie_embeddings else set()
    parts = pieces(model)
    for names in shared_names(model):
        if names[0] in parts and names[0] not in weights:
            sources |= {piece: piece for piece in parts[names[0]]}
            continue
        wanted = (_EMBEDDING, _HEAD) if tied.intersection(names) else names  # a file may have either
        sources[names[0]] = next((name for name in wanted if name in weights), names[0])
    missing = [name for name, source in sources.items() if source not in weights]
    if missing:
        raise WeightsError(f"{weights.path}: lacks {listed(missing)}, which config.json says the model has")
    return sources


def _check(model: Any, weights: Weights, sources: dict[str, str]) -> None:
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
        tied_head = name == _HEAD and model.config.tie_embeddings
        if (section in sections or beyond) and name not in shapes and not tied_head:
            raise WeightsError(f"{weights.info(name).file}: holds {name}, which config.json says the model hasn't")
    for name, source in sources.items():
        info, shape = weights.info(source), tuple(shapes[name].shape)
        if tuple(info.shape) != shape:
            raise WeightsError(f"{info.file}: {source} has shape {tuple(info.shape)}, config.json asks for {shape}")
        if not info.dtype.is_floating_point or info.dtype.itemsize == 1:
            raise WeightsError(f"{info.file}: {source} is {info.dtype}; quantized weights are not supported here")


def _check_tied(weights: Weights) -> None:
    """A tied checkpoint may store the head a second time, but then it must be the embedding."""
    if _HEAD not in weights or _EMBEDDING not in weights or _HEAD in weights.tied or _EMBEDDING in weights.tied:
        return
    if not torch.equal(weights.read(_HEAD), weights.read(_EMBEDDING)):
        raise WeightsError(
            f"{weights.info(_HEAD).file}: the head differs from the embedding, though config.json ties them; "
            "set tie_word_embeddings to false there"
        )


def _main_dtype(weights: Weights) -> torch.dtype:
    """The dtype that takes the most bytes of the whole checkpoint, so that every part of it gets the same."""
    sizes: dict[torch.dtype, int] = {}
    for name in weights.names:
        info = weights.info(name)
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])
