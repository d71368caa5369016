"""Linear layers that a checkpoint stores as whole numbers: found and checked by their headers, then read one by one.

Shapes: N outputs, K inputs.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks.checking import HEAD, name_in_file
from llm_blocks.mlp import Experts
from llm_quant import Arena, QuantizedLinear
from llm_quant.formats import Entry, Format
from llm_sepweight import Weights, WeightsError, split_name

BIAS = "bias"


@dataclass(frozen=True, kw_only=True)
class StoredLayer:
    """A quantized layer of a model: its path there, N and K, and its tensors' names in the weights by their suffix."""

    path: str
    shape: tuple[int, int]
    names: Mapping[str, str]


def parts_of_names(form: Format) -> tuple[str, ...]:
    """What may stand in the place of "weight" in the names of a checkpoint's tensors; for `names.decider`."""
    return (*form.suffixes, BIAS) if form.empty_biases else form.suffixes


def unquantized(weights: Weights, form: Format) -> Weights:
    """The tensors of sectioned `weights` that belong to no quantized layer."""
    return weights.without({name for names in _stored(weights, form).values() for name in names.values()})


def take_out(model: Any, weights: Weights, form: Format) -> tuple[Weights, list[StoredLayer]]:
    """Put an empty place with a bias for each layer of a model on the meta device that is stored quantized.

    Gives the weights that the model still needs, and the layers for `put_in`. Nothing is read. WeightsError for layers
    that aren't linear, for tensors of them that are missing, unexpected or of another shape than `form` says, and where
    none is quantized at all.
    """
    stored = _stored(weights, form)
    if not stored:
        raise WeightsError(f"{weights.path}: none of its tensors is quantized, though config.json says so ({form})")
    gone = {name for names in stored.values() for name in names.values()}
    layers: list[StoredLayer] = []
    for path, names in stored.items():
        if not _is_in(model, path):
            continue
        module = _linear(model, weights, path, names[form.packed])
        shape = (module.out_features, module.in_features)
        biased = f"{path}.{BIAS}" in weights
        if form.empty_biases and module.bias is None and biased:
            names = {**names, BIAS: f"{path}.{BIAS}"}
            gone.add(names[BIAS])
        _check(weights, form, path, shape, names)
        layers.append(StoredLayer(path=path, shape=shape, names=names))
        _replace(model, path, _Place(module.bias))
    return weights.without(gone), layers


def put_in(model: Any, layers: list[StoredLayer], weights: Weights, form: Format, device: torch.device | str) -> None:
    """Read the layers that `take_out` gave, one at a time, into their places, and prepare them where they are to be.

    WeightsError for contents that can't be.
    """
    arena = Arena()
    for layer in layers:
        tensors = {suffix: _read(weights, name) for suffix, name in layer.names.items()}
        shown = _shown(weights, layer.names[form.packed])
        if BIAS in tensors and bool(tensors.pop(BIAS).any()):
            raise WeightsError(f"{shown} has a bias, which config.json says the model hasn't")
        try:
            found = form.decode(tensors, *layer.shape)
        except ValueError as error:
            raise WeightsError(f"{shown}: {error}") from error
        bias = model.get_submodule(layer.path).bias
        linear = found.linear(None if bias is None else bias.to("cpu")).to(device)
        if isinstance(linear, QuantizedLinear):
            linear.prepare(arena)
        _replace(model, layer.path, linear)


class _Place(nn.Module):
    """Where a quantized layer will be; its bias is read with the other weights."""

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_parameter(BIAS, bias)


def _stored(weights: Weights, form: Format) -> dict[str, dict[str, str]]:
    """The path of each quantized layer of the checkpoint -> its tensors' names by suffix."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in weights.names:
        for suffix in form.suffixes:
            path = name.removesuffix(f".{suffix}")
            if path != name and path.count(".") > path.startswith("mid."):  # a layer below its section
                found[path][suffix] = name
    return {path: names for path, names in found.items() if form.packed in names}


def _is_in(model: Any, path: str) -> bool:
    """Whether the path is of a section that this part of the model has, or of a layer that no part of it has."""
    (section, layer), _ = split_name(path)
    if section == "mid":
        return str(layer) in model.mid or layer >= model.config.num_layers
    return getattr(model, section) is not None


def _linear(model: Any, weights: Weights, path: str, packed: str) -> nn.Linear:
    """The linear layer at a path. WeightsError where there is something else."""
    module, shown = model, _shown(weights, packed)
    for word in path.split("."):
        if isinstance(module, Experts):
            raise WeightsError(f"{shown}: an expert of a mixture; quantized experts are not read in this version")
        module = dict(module.named_children()).get(word)
        if module is None:
            raise WeightsError(f"{shown}: config.json says the model hasn't this layer")
    if type(module) is not nn.Linear:
        raise WeightsError(f"{shown}: no linear layer but {type(module).__name__}, which is not read quantized")
    if f"{path}.weight" == HEAD and model.config.tie_embeddings:
        raise WeightsError(
            f"{shown}: the head is quantized, though config.json ties it to the embedding; "
            "set tie_word_embeddings to false there"
        )
    return module


def _check(weights: Weights, form: Format, path: str, shape: tuple[int, int], names: Mapping[str, str]) -> None:
    """Compare the headers of a layer's tensors with what the format says of its shape (N, K)."""
    shown = _shown(weights, names[form.packed])
    try:
        entries = form.entries(*shape)
    except ValueError as error:
        raise WeightsError(f"{shown}: {error}, as config.json has them") from error
    if BIAS in names:
        entries[BIAS] = Entry(shape=shape[:1], dtypes=(torch.float16, torch.bfloat16, torch.float32))
    missing = next((suffix for suffix, entry in entries.items() if suffix not in names and not entry.optional), None)
    if missing is not None:
        raise WeightsError(f"{shown}: lacks its {missing}, which layers of {form} have")
    for suffix, name in names.items():
        info, said = weights.info(name), f"{weights.info(name).file}: {name_in_file(weights, name)}"
        if suffix not in entries:
            raise WeightsError(f"{said}: layers of {form} have none")
        if not entries[suffix].fits(info.shape):
            raise WeightsError(f"{said} has shape {info.shape}, {form} asks for {entries[suffix].shape}")
        if info.dtype not in entries[suffix].dtypes:
            raise WeightsError(f"{said} is {info.dtype}, {form} asks for {_listed(entries[suffix])}")


def _read(weights: Weights, name: str) -> Tensor:
    """A tensor in memory of its own: pages of a mapped file would stay beside what is made of it."""
    info = weights.info(name)
    return weights.read(name, out=torch.empty(info.shape, dtype=info.dtype))


def _replace(model: Any, path: str, module: nn.Module) -> None:
    above, _, last = path.rpartition(".")
    setattr(model.get_submodule(above), last, module)


def _shown(weights: Weights, name: str) -> str:
    """A layer's file and name in a sentence."""
    return f"{weights.info(name).file}: {name_in_file(weights, name)}"


def _listed(entry: Entry) -> str:
    return " or ".join(str(dtype) for dtype in entry.dtypes)
