"""Reading a checkpoint folder into the Model of its architecture, or into a part of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

import llm_sepweight
from llm_blocks.architectures import claimed_by, find, find_importer
from llm_blocks.meta import without_storage
from llm_blocks.mlp import Experts
from llm_blocks.names import decider
from llm_blocks.parameters import assign, listed, pieces, shared_names
from llm_blocks.slices import part_layers
from llm_sepweight import PartSpec, Weights, WeightsError, split_name

_EMBEDDING, _HEAD = "begin.embed.weight", "end.head.weight"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An open checkpoint: its sectioned `weights`, none of them read yet, and the architecture's `config`.

    `kind` is "hf", "sepweight" or the name of a foreign format. `raw` is the config.json, or for a foreign format what
    it would be. Use it in a `with` block to let go of the files.
    """

    kind: str
    path: Path
    raw: dict[str, Any]
    config: Any
    weights: Weights

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.weights.close()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`: a folder with config.json, else whatever an installed importer claims.

    Raises ArchitectureError for an unknown model_type, ValueError for a configuration that can't be honoured,
    WeightsError for files that are missing or damaged.
    """
    path = Path(path)
    kind = _foreign(path)
    if kind is not None:
        config, weights = find_importer(kind).open(path)
        return Checkpoint(kind=kind, path=path, raw=config.to_hf(), config=config, weights=weights)
    raw = read_config(path)
    architecture = find(raw.get("model_type"))
    config = architecture.Config.from_hf(raw)
    weights = llm_sepweight.open(path, decider=decider(architecture.NAMES, source=path, num_layers=config.num_layers))
    kind = "sepweight" if weights.layout.startswith("sepweight") else "hf"
    return Checkpoint(kind=kind, path=path, raw=raw, config=config, weights=weights)


def load_config(path: str | Path) -> Any:
    """The Config of the checkpoint at `path`, which may lack its weights if it has config.json; raises as above."""
    path = Path(path)
    if _foreign(path) is not None:
        with open_checkpoint(path) as checkpoint:
            return checkpoint.config
    raw = read_config(path)
    return find(raw.get("model_type")).Config.from_hf(raw)


def _foreign(path: Path) -> str | None:
    return None if (path / "config.json").exists() else claimed_by(path)


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

    The folder is read in place, tensor by tensor, in any layout that llm_sepweight or an installed importer reads.
    dtype None means the checkpoint's own: the one that takes the most bytes. Raises ArchitectureError for an unknown
    model_type, ValueError for a config.json or a part that can't be honoured, WeightsError for a tensor that is
    missing, unexpected or of another shape than config.json says.
    """
    with open_checkpoint(path) as checkpoint:
        config, weights = checkpoint.config, checkpoint.weights
        _, layers = part_layers(part, config.num_layers)
        require_layers(weights, layers)
        with without_storage():
            model = find(config.model_type).Model(config, part)
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
    sources = check(model, weights)
    if model.config.tie_embeddings and model.end is not None:
        check_tied(weights)
    dtype = dtype or main_dtype(weights)
    shapes = dict(model.named_parameters(remove_duplicate=False))

    def read(names: list[str]) -> Tensor:
        if names[0] not in sources:  # its pieces are read into it below
            return torch.empty(shapes[names[0]].shape, dtype=dtype, device=device)
        exact = names[0].endswith(model.exact)
        return weights.read(sources[names[0]], dtype=torch.float32 if exact else dtype, device=device)

    assign(model, read, trainable=trainable)
    for parts in pieces(model).values():
        for name, view in parts.items():
            if name in sources:
                weights.read(sources[name], out=view)


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
        tied_head = name == _HEAD and model.config.tie_embeddings
        if (section in sections or beyond) and name not in shapes and not tied_head:
            raise WeightsError(f"{weights.info(name).file}: holds {name}, which config.json says the model hasn't")
    for name, source in sources.items():
        info, shape = weights.info(source), tuple(shapes[name].shape)
        if tuple(info.shape) != shape:
            raise WeightsError(f"{info.file}: {source} has shape {tuple(info.shape)}, config.json asks for {shape}")
        if _is_quantized(info.dtype):
            raise WeightsError(f"{info.file}: {source} is {info.dtype}; quantized weights are not supported here")


def check_tied(weights: Weights) -> None:
    """A tied checkpoint may store the head a second time, but then it must be the embedding."""
    if _HEAD not in weights or _EMBEDDING not in weights or _HEAD in weights.tied or _EMBEDDING in weights.tied:
        return
    if not torch.equal(weights.read(_HEAD), weights.read(_EMBEDDING)):
        raise WeightsError(
            f"{weights.info(_HEAD).file}: the head differs from the embedding, though config.json ties them; "
            "set tie_word_embeddings to false there"
        )


def main_dtype(weights: Weights) -> torch.dtype:
    """The dtype that takes the most bytes of the whole checkpoint, so that every part of it gets the same.

    Quantized tensors don't count, for nothing is computed in their dtypes; fp32 where there are no others.
    """
    sizes: dict[torch.dtype, int] = {}
    for name in weights.names:
        info = weights.info(name)
        if not _is_quantized(info.dtype):
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


def _is_quantized(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point or dtype.itemsize == 1
