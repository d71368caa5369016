"""Adapters of prompts as folders: adapter_config.json with a peft_type of our own, and adapter_model.safetensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm_blocks.saving import write_json
from llm_finetune.adapted import adapted_layers, remove_adapter
from llm_finetune.adapter import adapter_parameters, add_adapter, add_adapter_v2
from llm_finetune.adapter_file import PICKLED, WEIGHTS
from llm_finetune.adapter_settings import AdapterSettings
from llm_finetune.lora import LoraLinear
from llm_finetune.peft_config import CONFIG
from llm_finetune.prompts import ScaledLinear
from llm_sepweight import WeightsError, read_json, write_safetensors
from llm_sepweight.atomic import atomic_folder
from llm_sepweight.formats.safetensors_file import SafetensorsFile

KIND = "LLM_ADAPTER"
"""The peft_type, which PEFT refuses by name."""
_KEYS = frozenset({"peft_type", "version", "base_model_name_or_path", "prompt_length", "start_layer"})
_MOST_BYTES = 2**24
_LAYER = re.compile(r"mid\.([0-9]{1,6})\.")


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What the config of an adapter of prompts says; `version` is 1, or 2 with biases, scales and norms."""

    base: str | None
    version: int
    settings: AdapterSettings


def is_prompts(folder: Path) -> bool:
    """Whether the config in an adapter's folder is of this kind. WeightsError where it can't be read."""
    return read_json(folder / CONFIG, max_bytes=_MOST_BYTES).get("peft_type") == KIND


def write_prompts(
    folder: str | Path, model: nn.Module, settings: AdapterSettings, *, base: str, name: str = "default"
) -> None:
    """Write the adapter `name` of `model` to the new folder, complete or not at all.

    `base` is the base model's name or path. ValueError for an adapter that isn't there or is one of LoRA, WeightsError
    where the folder is taken.
    """
    layers = [layer for layer in adapted_layers(model).values() if name in layer.slots]
    if not layers or any(isinstance(layer, LoraLinear) for layer in layers):
        raise ValueError(f"there is no adapter {name!r} of prompts")
    version = 2 if any(isinstance(layer, ScaledLinear) for layer in layers) else 1
    config = {"peft_type": KIND, "version": version, "base_model_name_or_path": base}
    config |= {"prompt_length": settings.prompt_length, "start_layer": settings.start_layer}
    tensors = {path: each.detach().cpu().contiguous() for path, each in adapter_parameters(model, name).items()}
    with atomic_folder(folder) as temporary:
        write_safetensors(temporary / WEIGHTS, dict(sorted(tensors.items())), metadata={"format": "pt"})
        write_json(temporary / CONFIG, config)


def read_prompt_config(folder: str | Path) -> PromptConfig:
    """The config of such a folder; WeightsError for one that is missing, malformed or can't be honoured."""
    file = Path(folder) / CONFIG
    raw = read_json(file, max_bytes=_MOST_BYTES)
    try:
        return _parsed(raw)
    except ValueError as error:
        raise WeightsError(f"{file}: {error}") from None


def apply_prompts(model: Any, folder: str | Path, *, name: str = "default") -> nn.Module:
    """Put the adapter in a folder onto `model` in place, as the new `name`, and make it active; gives `model`.

    Of a part of a model its layers alone are read. WeightsError for files that are damaged or can't be honoured;
    ValueError where the model is another than its base, or has an adapter of that name. Then it is as it was.
    """
    folder = Path(folder)
    config = read_prompt_config(folder)
    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        raise WeightsError(f"{folder / PICKLED}: pickled files aren't read")
    opened = SafetensorsFile(folder / WEIGHTS)
    before = {id(each): each.requires_grad for each in model.parameters()}
    active = {layer: dict(layer.active) for layer in adapted_layers(model).values()}
    (add_adapter if config.version == 1 else add_adapter_v2)(model, config.settings, name=name)
    try:
        _fill(model, adapter_parameters(model, name), opened, folder)
    except ValueError:
        remove_adapter(model, name)
        for layer, weights in active.items():
            layer.active = weights
        for each in model.parameters():
            each.requires_grad_(before[id(each)])
        raise
    return model


@torch.no_grad()
def _fill(model: Any, parameters: Mapping[str, nn.Parameter], opened: SafetensorsFile, folder: Path) -> None:
    wanted = {path: tuple(each.shape) for path, each in parameters.items()}
    there = {path: tuple(info.shape) for path, info in opened.infos.items() if _is_ours(model, path)}
    wrong = sorted(path for path in wanted.keys() | there.keys() if wanted.get(path) != there.get(path))
    if wrong:
        path = wrong[0]
        raise ValueError(
            f"{folder}: {path[:200]} is {there.get(path, 'absent')}, and {wanted.get(path, 'absent')} in an adapter of "
            "this model; take the adapter's own base model"
        )
    if not all(opened.infos[path].dtype.is_floating_point for path in wanted):
        raise WeightsError(f"{opened.path}: has tensors that are no floating numbers")
    for path, parameter in parameters.items():
        parameter.copy_(opened.view(path))


def _is_ours(model: Any, path: str) -> bool:
    """Whether a tensor belongs to the model, which may be a part: false for a layer or an end that it lacks."""
    if path.startswith(("begin.", "end.")):
        return getattr(model, path.partition(".")[0]) is not None
    match = _LAYER.match(path)
    return match is None or int(match[1]) >= model.config.num_layers or str(int(match[1])) in model.mid


def _parsed(raw: Mapping[str, Any]) -> PromptConfig:
    unknown = sorted(raw.keys() - _KEYS)
    if unknown:
        raise ValueError(f"{unknown[0][:80]} is no key of such an adapter")
    base, version = raw.get("base_model_name_or_path"), raw.get("version")
    if raw.get("peft_type") != KIND or type(version) is not int or version not in (1, 2):
        raise ValueError(
            f"is version {str(version)[:40]} of {str(raw.get('peft_type'))[:40]}, and of {KIND} 1 and 2 are read"
        )
    if not (base is None or isinstance(base, str)):
        raise ValueError("base_model_name_or_path must be a string")
    sizes: dict[str, Any] = {key: raw.get(key) for key in ("prompt_length", "start_layer")}
    return PromptConfig(base=base or None, version=version, settings=AdapterSettings(**sizes))
