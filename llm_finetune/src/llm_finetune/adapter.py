"""LLaMA-Adapter as a function over a `Decoder`: v1 has prompts, v2 also biases, scales and norms that train."""

import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from llm_blocks import parts_of
from llm_blocks.replacing import put
from llm_finetune.adapted import Adapted, adapted_layers
from llm_finetune.adapter_settings import AdapterSettings
from llm_finetune.linears import device_of
from llm_finetune.lora import LoraLinear, check_name, set_adapter
from llm_finetune.prompts import Prompt, PromptedAttention, RetrainedNorm, Scale, ScaledLinear, attention_sizes
from llm_finetune.slots import mixed_seed
from llm_finetune.targets import linear_paths


def add_adapter(
    model: Any, settings: AdapterSettings | None = None, *, name: str = "default", seed: int = 0
) -> nn.Module:
    """Put the prompts of an adapter on the layers of a `Decoder` from `start_layer` on, in place, and make it active.

    Everything but adapters is frozen. A prompt's initial values depend on the seed and its layer alone, also in a part
    of the model. Gives the model, which computes what it did until something is trained. ValueError for a start beyond
    the model's layers, an architecture whose attention has no k and v, or a name in use, before anything changes.
    """
    settings = settings or AdapterSettings()
    check_name(model, name)
    _put_prompts(model, settings, name, seed)
    return _ready(model, name)


def add_adapter_v2(
    model: Any, settings: AdapterSettings | None = None, *, name: str = "default", seed: int = 0
) -> nn.Module:
    """The same, and also a bias and a scale on every linear layer, and norms that train.

    Routers and stacks of experts stay as they are. ValueError as above, and for a model with LoRA.
    """
    settings = settings or AdapterSettings()
    check_name(model, name)
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise ValueError("the model has adapters of LoRA, which have no place beside scales; remove them first")
    _put_prompts(model, settings, name, seed)
    for path in _places(model, linear_paths(model), ScaledLinear):
        layer = _within(model, path, ScaledLinear)
        layer.slots[name] = Scale(layer.out_features, device_of(layer.base))
    for path in _places(model, _norm_paths(model), RetrainedNorm):
        layer = _within(model, path, RetrainedNorm)
        layer.slots[name] = copy.deepcopy(layer.base)
    return _ready(model, name)


def adapter_parameters(model: nn.Module, name: str = "default") -> dict[str, nn.Parameter]:
    """The parameters of an adapter of prompts by their names in files: those of its layers in the bare model.

    So `mid.2.attention.prompt` and `.gate`; of v2 also `mid.2.attention.q.scale` and `.bias`, `end.norm.weight`.
    """
    return {
        f"{path.replace('.base', '')}.{key}": parameter
        for path, layer in adapted_layers(model).items()
        if name in layer.slots and not isinstance(layer, LoraLinear)
        for key, parameter in layer.slots[name].named_parameters()
    }


def _put_prompts(model: Any, settings: AdapterSettings, name: str, seed: int) -> None:
    if settings.start_layer >= model.config.num_layers:
        raise ValueError(f"start_layer is {settings.start_layer} of a model with {model.config.num_layers} layers")
    fused = parts_of(model)
    numbers = [number for number in model.mid if int(number) >= settings.start_layer]
    found = {number: attention_sizes(_bare(model.mid[number].attention)) for number in numbers}
    for number, (dim, heads, device) in found.items():
        path = f"mid.{number}.attention"
        layer = model.mid[number].attention
        if not isinstance(layer, PromptedAttention):
            layer = PromptedAttention(layer, fused.get(f"{path}.qkv")).train(layer.training)
            put(model, path, layer)
        start = mixed_seed(seed, path)
        layer.slots[name] = Prompt(settings.prompt_length, dim, heads, seed=start, device=device)


def _bare(layer: nn.Module) -> nn.Module:
    return layer.base if isinstance(layer, Adapted) else layer


def _places(model: nn.Module, paths: Iterator[str] | list[str], kind: type[Adapted]) -> list[str]:
    """The paths, or those of the layers of a kind that hold what is there."""
    above = [path.removesuffix(".base") for path in paths]
    return [up if isinstance(model.get_submodule(up), kind) else path for up, path in zip(above, paths, strict=True)]


def _within(model: nn.Module, path: str, kind: type[Adapted]) -> Any:
    layer = model.get_submodule(path)
    if not isinstance(layer, kind):
        layer = kind(layer).train(layer.training)
        put(model, path, layer)
    return layer


def _norm_paths(model: nn.Module) -> list[str]:
    """The norms with weights, as every architecture names them; the outermost where they lie in each other."""
    found: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{other}.") for other in found)
        if not inside and "norm" in path.rpartition(".")[2] and any(True for _ in module.parameters()):
            found.append(path)
    return found


def _ready(model: nn.Module, name: str) -> nn.Module:
    trained = {id(each) for layer in adapted_layers(model).values() for each in layer.slots.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    for layer in adapted_layers(model).values():
        layer.slots.train(layer.training)
    set_adapter(model, name)
    return model
