"""Adapters in PEFT's form, both ways: a folder with adapter_config.json and adapter_model.safetensors.

PEFT knows no parts of fused projections: there they are one adapter of the whole, whose A stacks those of the parts and
whose B has theirs in blocks, zeros elsewhere. The product is the same, and the file's metadata tells it to us.
Shapes: N outputs, K inputs, r rank, P adapted parts.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks import find, parts_of
from llm_blocks.meta import without_storage
from llm_blocks.names import Names, from_hf_name, spellings, to_hf_name
from llm_blocks.saving import write_json
from llm_finetune.adapter_file import MAGNITUDE, PARTS, PREFIX, WEIGHTS, A, AdapterFile, B, Factors
from llm_finetune.linears import is_linear, row_squares, sizes_of
from llm_finetune.lora import LoraLinear, adapters, add_lora, lora_layers
from llm_finetune.lora_settings import Lora
from llm_finetune.peft_config import CONFIG, config_to_peft, whole
from llm_finetune.slots import WHOLE, LowRank, Slot
from llm_quant import LinearLike
from llm_sepweight import write_safetensors
from llm_sepweight.atomic import atomic_folder

_HEAD = "lm_head"  # what transformers calls it in memory, also where files have another name


def write_adapter(
    folder: str | Path,
    module: nn.Module,
    lora: Lora,
    *,
    base: str,
    names: Names | None = None,
    name: str = "default",
) -> None:
    """Write the adapter `name` of `module` to the new folder, as `peft` reads it; factors are fp32.

    `lora` gives the config's rank and alpha, from which layers may differ; `base` is the base model's name or path;
    `names` is the architecture's table of names, by default that of the module's own config, {} for names as they are.
    ValueError for an adapter that isn't there, WeightsError where the folder is taken.
    """
    table = names_of(module) if names is None else names
    layers = {path: layer for path, layer in lora_layers(module).items() if name in layer.slots}
    if not layers:
        raise ValueError(f"there is no adapter {name!r}; there are {', '.join(adapters(module)) or 'none'}")
    found = {hf_path(table, path): joined(layer, name) for path, layer in layers.items()}
    parts = {hf_path(table, path): each for path, layer in layers.items() if (each := _adapted_parts(layer, name))}
    ranks = {path: each.settings.r for path, each in found.items() if each.settings.r != lora.r}
    alphas = {path: whole(each.settings.alpha) for path, each in found.items() if each.settings.alpha != lora.alpha}
    config = config_to_peft(lora, base, list(found), ranks, alphas, transposed=_is_transposed(module, layers))
    metadata = {"format": "pt"} | ({PARTS: json.dumps(parts, sort_keys=True)} if parts else {})
    with atomic_folder(folder) as temporary:
        write_safetensors(temporary / WEIGHTS, _named(found), metadata=metadata)
        write_json(temporary / CONFIG, config)


def apply(model: nn.Module, file: AdapterFile, name: str = "default", *, names: Names | None = None) -> nn.Module:
    """Put an adapter that was read onto `model` in place, as `name`, and make it the active one; gives `model`.

    Where the model has an adapter of that name, its values become those of the file. ValueError for layers that the
    model doesn't have, of other sizes, or other than those of the adapter that it has.
    """
    table = names_of(model) if names is None else names
    found = {_our_path(table, path, file): path for path in file.factors}
    for path, theirs in found.items():
        _check(model, path, file.factors[theirs], file)
    if name not in adapters(model):
        _add(model, file, name, found)
    layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.slots}
    if layers.keys() != found.keys():
        raise ValueError(f"{file.folder}: has other layers than the adapter {name!r} of the model")
    for path, layer in layers.items():
        _fill(layer, name, file.factors[found[path]], file)
    return model


def _is_transposed(module: Any, layers: Mapping[str, LoraLinear]) -> bool:
    """Whether files have the weights of such layers as (K, N), also where quantized ones stand in their places."""
    if not names_of(module):
        return any(isinstance(layer.base, LinearLike) for layer in layers.values())
    model = skeleton(module.config)
    return any(isinstance(model.get_submodule(path), LinearLike) for path in layers)


def skeleton(config: Any) -> Any:
    """The whole model of a config, without weights."""
    with without_storage():
        return find(config.model_type).Model(config, "f")


def names_of(model: Any) -> Names:
    """The table of names of the model's architecture; {} for a module that has no config of ours."""
    config = getattr(model, "config", None)
    kind = getattr(type(config), "model_type", None)
    return find(kind).NAMES if kind is not None and hasattr(config, "to_hf") else {}


def hf_path(names: Names, path: str) -> str:
    """What Hugging Face calls the layer at our `path`, in a model in memory."""
    if not names:
        return path
    key = to_hf_name(names, f"{path}.weight")
    known = [each.removesuffix(".weight") for each in spellings(names, key)]
    return _HEAD if _HEAD in known else known[0]


def joined(layer: LoraLinear, name: str) -> Factors:
    """The factors of an adapter on one layer as those of the whole layer, on the CPU."""
    slot: Any = layer.slots[name]
    parts = list(slot.pairs)
    pairs: list[LowRank] = list(slot.pairs.values())
    if parts == [WHOLE]:
        magnitude = None if pairs[0].dora is None else pairs[0].dora.magnitude
        return Factors(a=_cpu(pairs[0].a), b=_cpu(pairs[0].b), magnitude=magnitude, settings=slot.settings)
    r, count = slot.settings.r, len(parts)
    b = torch.zeros(layer.out_features, count * r)
    magnitude = row_squares(layer.base).sqrt().cpu() if slot.settings.dora else None
    for index, (part, pair) in enumerate(zip(parts, pairs, strict=True)):
        rows = rows_of(layer, part)
        b[rows, index * r : (index + 1) * r] = _cpu(pair.b)
        if magnitude is not None and pair.dora is not None:
            magnitude[rows] = _cpu(pair.dora.magnitude)
    alpha = slot.settings.alpha * (count**0.5 if slot.settings.rslora else count)
    settings = replace(slot.settings, r=count * r, alpha=alpha)
    return Factors(a=torch.cat([_cpu(pair.a) for pair in pairs]), b=b, magnitude=magnitude, settings=settings)


def rows_of(layer: LoraLinear, part: str) -> Tensor:
    """The rows of the weight that a part is, as numbers."""
    rows = torch.arange(layer.out_features)
    if layer.parts is None or part == WHOLE:
        return rows
    return rows.view(layer.parts.groups, layer.parts.run)[:, layer.parts.span(part)].flatten()


def _named(found: Mapping[str, Factors]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, each in found.items():
        tensors |= {f"{PREFIX}{path}{A}": each.a, f"{PREFIX}{path}{B}": each.b}
        if each.magnitude is not None:
            tensors[f"{PREFIX}{path}{MAGNITUDE}"] = _cpu(each.magnitude)
    return dict(sorted(tensors.items()))


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


def _adapted_parts(layer: LoraLinear, name: str) -> list[str]:
    slot: Any = layer.slots[name]
    return [] if list(slot.pairs) == [WHOLE] else list(slot.pairs)


def _our_path(names: Names, path: str, file: AdapterFile) -> str:
    if not names:
        return path
    try:
        found = from_hf_name(names, f"{path}.weight")
    except ValueError:
        found = ""
    if not found.endswith(".weight"):
        raise ValueError(f"{file.folder}: adapts {path[:200]!r}, which is no linear layer of this architecture")
    return found.removesuffix(".weight")


def _check(model: nn.Module, path: str, factors: Factors, file: AdapterFile) -> None:
    """ValueError unless the layer is there and has the sizes of the factors."""
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"{file.folder}: adapts {path}, which this model doesn't have") from None
    layer = layer.base if isinstance(layer, LoraLinear) else layer
    sizes = factors.b.size(0), factors.a.size(1)
    if not is_linear(layer) or sizes_of(layer) != sizes:
        raise ValueError(
            f"{file.folder}: adapts {path} of {sizes[1]} inputs and {sizes[0]} outputs, which is another layer than "
            "the model has there; take the adapter's own base model"
        )


def _add(model: nn.Module, file: AdapterFile, name: str, found: Mapping[str, str]) -> None:
    """The adapter with values to be filled in."""
    fused, targets, settings = parts_of(model), {}, {}
    for path, theirs in found.items():
        lora, parts = file.factors[theirs].settings, file.parts.get(theirs)
        if parts is not None:
            _check_parts(parts, fused[path].names if path in fused else (), lora.r, path, file)
            alpha = lora.alpha / (len(parts) ** 0.5 if lora.rslora else len(parts))
            lora = replace(lora, r=lora.r // len(parts), alpha=alpha)
        targets[path], settings[path] = parts or (WHOLE,), lora
    add_lora(model, targets, settings, name=name)


def _check_parts(parts: tuple[str, ...], known: tuple[str, ...], r: int, path: str, file: AdapterFile) -> None:
    if not parts or not set(parts) <= set(known) or len(set(parts)) != len(parts) or r % len(parts):
        raise ValueError(f"{file.folder}: its metadata doesn't fit the parts of {path}")


@torch.no_grad()
def _fill(layer: LoraLinear, name: str, factors: Factors, file: AdapterFile) -> None:
    """Give an adapter's parameters the values of a file, part by part."""
    slot: Any = layer.slots[name]
    assert isinstance(slot, Slot)
    r = slot.settings.r
    if factors.a.size(0) != r * len(slot.pairs) or slot.settings.dora != factors.settings.dora:
        raise ValueError(f"{file.folder}: has another rank or kind than the adapter {name!r} of the model")
    for index, (part, pair) in enumerate(slot.pairs.items()):
        some, rows = slice(index * r, (index + 1) * r), rows_of(layer, part)
        pair.a.copy_(factors.a[some])
        pair.b.copy_(factors.b[rows, some])
        if pair.dora is not None:
            assert factors.magnitude is not None
            pair.dora.magnitude.copy_(factors.magnitude[rows])
    if not torch.equal(joined(layer, name).b, factors.b):
        raise ValueError(f"{file.folder}: its factors reach beyond the parts that it is said to adapt")
