"""Adapted models, and a second way to what they compute: the adapted weights as plain matrices.

Shapes: N outputs, K inputs.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks.replacing import put
from llm_finetune.lora import LoraLinear, add_lora, lora_layers, lora_parameters
from llm_finetune.lora_settings import Lora
from llm_finetune.targets import lora_targets
from llm_quant import BnbLinear, QuantizedLinear, matrix_of

WIDE = Lora(r=3, dropout=0, key=True, projection=True, mlp=True)


def ours(load: Callable[..., Any], kind: str, lora: Lora) -> Any:
    """Our model of a kind with an adapter away from where it begins."""
    model = load(kind)
    add_lora(model, lora_targets(model, lora), lora)
    randomise(model)
    return model


def randomise(module: nn.Module, *, seed: int = 5, std: float = 0.1) -> None:
    """Move all parameters of adapters away from where they begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(module).values():
            parameter += torch.randn(parameter.shape, generator=generator) * std


def weight_of(layer: nn.Module) -> Tensor:
    """The matrix (N, K) that a layer multiplies by, in fp32."""
    if isinstance(layer, QuantizedLinear):
        return layer.weight.dequantize()
    return (layer.dequantize() if isinstance(layer, BnbLinear) else matrix_of(layer)).detach().float()


def rows_of(layer: LoraLinear, part: str) -> list[int]:
    """The rows of the weight that a part is."""
    if layer.parts is None or part == "whole":
        return list(range(layer.out_features))
    span = layer.parts.span(part)
    return [
        group * layer.parts.run + row for group in range(layer.parts.groups) for row in range(span.start, span.stop)
    ]


def adapted(layer: LoraLinear, name: str) -> Tensor:
    """The weight (N, K) with one adapter."""
    weight, slot = weight_of(layer.base).clone(), layer.slots[name]
    for part, pair in slot.pairs.items():
        rows = rows_of(layer, part)
        summed = weight[rows] + slot.scale * pair.b @ pair.a
        if pair.dora is not None:
            summed = pair.dora.magnitude[:, None] * summed / summed.norm(dim=1, keepdim=True)
        weight[rows] = summed.detach()
    return weight


def as_dense(model: Any, name: str | None = "default") -> Any:
    """A copy whose adapted and quantized layers are plain ones; name None leaves the adapters out."""
    model = copy.deepcopy(model)
    for path, layer in lora_layers(model).items():
        weight = weight_of(layer.base) if name is None or name not in layer.slots else adapted(layer, name)
        put(model, path, _plain(weight, layer.base.bias))
    for path, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear | BnbLinear):
            put(model, path, _plain(weight_of(layer), layer.bias))
    return model


def _plain(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.size(1), weight.size(0), bias=bias is not None)
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().float().clone())
    return layer
