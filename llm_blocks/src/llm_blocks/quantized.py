"""Linear layers that a checkpoint stores as whole numbers: found and checked by their headers, then read one by one.

Shapes: N outputs, K inputs.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks.checking import HEAD, name_in_file
from llm_blocks.meta import without_storage
from llm_blocks.mlp import Experts
from llm_blocks.one_by_one import OneByOne
from llm_blocks.replacing import put
from llm_quant import Arena, LinearLike, QuantizedLinear, matrix_of
from llm_quant.formats import Entry, Format, Layer
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

    Experts that are stored one by one are places one by one. A layer that isn't linear but needs the numbers of its
    weight (N, K) keeps its place and loses the weight. Gives the weights that the model still needs, and the layers for
    `put_in`. Nothing is read. WeightsError for layers that have no such weight, for tensors of them that are missing,
    unexpected or of another shape than `form` says, and where none is quantized at all.
    """
    stored = _stored(weights, form)
    if not stored:
        raise WeightsError(f"{weights.path}: none of its tensors is quantized, though config.json says so ({form})")
    _part_experts(model, weights, stored)
    gone = {name for names in stored.values() for name in names.values()}
    layers: list[StoredLayer] = []
    for path, names in stored.items():
        if not _is_in(model, path):
            continue
        module = _layer(model, weights, path, names[form.packed])
        n, k = matrix_of(module).shape if _is_linear(module) else module.weight.shape
        bias = getattr(module, BIAS, None)
        if form.empty_biases and bias is None and f"{path}.{BIAS}" in weights:
            names = {**names, BIAS: f"{path}.{BIAS}"}
            gone.add(names[BIAS])
        _check(weights, form, path, (n, k), names)
        layers.append(StoredLayer(path=path, shape=(n, k), names=names))
        if _is_linear(module):
            put(model, path, _Place(bias))
        else:
            del module.weight
    return weights.without(gone), layers


def put_in(
    model: Any,
    layers: list[StoredLayer],
    weights: Weights,
    form: Format,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> None:
    """Read the layers that `take_out` gave, one at a time, into their places, and prepare them where they are to be.

    `dtype` is that of the weights that are needed as numbers. WeightsError for contents that can't be.
    """
    arena = Arena()
    experts = {path: module for path, module in model.named_modules() if isinstance(module, OneByOne)}
    unread = Counter(_above(layer.path) for layer in layers)
    for layer in layers:
        found, place, above = _decoded(layer, weights, form), model.get_submodule(layer.path), _above(layer.path)
        if not isinstance(place, _Place):
            place.weight = nn.Parameter(_numbers(found).to(device=device, dtype=dtype), requires_grad=False)
            continue
        bias = None if place.bias is None else place.bias.to("cpu")
        linear = found.linear(bias).to(device)
        if above in experts and not isinstance(linear, QuantizedLinear):
            raise WeightsError(f"{_shown(weights, layer.names[form.packed])}: experts in {form} are not read")
        if isinstance(linear, QuantizedLinear) and above not in experts:
            linear.prepare(arena)
        put(model, layer.path, linear)
        unread[above] -= 1
        if above in experts and not unread[above]:
            put(model, above, experts.pop(above).stacked(arena))


def _above(path: str) -> str:
    """Where the experts are whose one this would be: mid.3.mlp.experts of mid.3.mlp.experts.7.down."""
    return path.rsplit(".", 2)[0]


def _part_experts(model: Any, weights: Weights, stored: Mapping[str, object]) -> None:
    """Make places one by one of the experts of which any is stored quantized."""
    wanted = set(map(_above, stored))
    found = {path: each for path, each in model.named_modules() if isinstance(each, Experts) and path in wanted}
    pieces = sum(3 * experts.down.size(0) for experts in found.values())
    if pieces > len(weights.names):  # config.json may claim any number, and each has a module
        raise WeightsError(
            f"{weights.path}: holds {len(weights.names)} tensors, too few for the {pieces} of experts alone that "
            "config.json asks for"
        )
    with without_storage():
        for path, experts in found.items():
            put(model, path, OneByOne(experts))


def _decoded(layer: StoredLayer, weights: Weights, form: Format) -> Layer:
    tensors = {suffix: _read(weights, name) for suffix, name in layer.names.items()}
    shown = _shown(weights, layer.names[form.packed])
    if BIAS in tensors and bool(tensors.pop(BIAS).any()):
        raise WeightsError(f"{shown} has a bias, which config.json says the model hasn't")
    try:
        return form.decode(tensors, *layer.shape)
    except ValueError as error:
        raise WeightsError(f"{shown}: {error}") from error


def _numbers(layer: Layer) -> Tensor:
    """The weight (N, K) in fp32, its columns in the order of the inputs."""
    linear = layer.linear()
    weight = linear.weight.dequantize() if isinstance(linear, QuantizedLinear) else linear.dequantize()
    return weight if layer.order is None else torch.empty_like(weight).index_copy_(1, layer.order, weight)


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


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear or isinstance(module, LinearLike)


def _layer(model: Any, weights: Weights, path: str, packed: str) -> Any:
    """The layer at a path, which has a weight (N, K). WeightsError where there is something else."""
    module, shown = model, _shown(weights, packed)
    for word in path.split("."):
        module = dict(module.named_children()).get(word)
        if module is None:
            raise WeightsError(f"{shown}: config.json says the model hasn't this layer")
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Embedding) or not isinstance(weight, Tensor) or weight.dim() != 2:
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


def _shown(weights: Weights, name: str) -> str:
    """A layer's file and name in a sentence."""
    return f"{weights.info(name).file}: {name_in_file(weights, name)}"


def _listed(entry: Entry) -> str:
    return " or ".join(str(dtype) for dtype in entry.dtypes)
