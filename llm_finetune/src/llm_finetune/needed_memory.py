"""How much memory a run will take on a CPU, before it is started.

The shares that can be counted are counted; how much a layer keeps for backward follows from the sizes of its linear
layers by the constants below, which were fitted to measured runs of Llama's shape. Experts of a mixture, which have no
linear layers of their own, are not in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import llm_quant
from llm_finetune.job import Quantization
from llm_finetune.linears import is_linear, sizes_of
from llm_finetune.lora_settings import Lora
from llm_finetune.settings import Settings
from llm_finetune.targets import lora_targets

INTERPRETER = 250 * 10**6  # Python with torch and our packages, before a model is there
OUTPUTS = 1.5  # of a layer's linear layers, how many times the widths of their outputs are kept
WIDTHS = 8.0  # and how many times the model's width: residual sums, normed inputs
INPUTS = 0.55  # of linear layers that train, how many times the widths of their inputs are kept
HOLES = {4: 1.15, 2: 1.25}  # what comes and goes in a step, and holes of the allocator, by the bytes of a number
LOGITS = 3  # chunks of logits in fp32 that live at once
BYTES: Mapping[Quantization, float] = {  # of a rounded weight with its share of the scales
    "bnb.nf4": 0.5625,
    "bnb.fp4": 0.5625,
    "bnb.nf4-dq": 0.516,
    "bnb.fp4-dq": 0.516,
    "bnb.int8": 1.01,
    "int8": 1.01,
    "int4": 0.53,
}
_STATE = {"AdamW": 8, "PagedAdamW": 8, "SGD": 4, "Muon": 4, "AdamW8bit": 2, "PagedAdamW8bit": 2}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of each share at the most. saved: what forward keeps for backward of a micro-batch.

    reused: of these, what is counted twice. With one micro-batch a step, gradients come as what was kept
    goes; about half of them find its place.
    """

    weights: int
    gradients: int
    optimizer: int
    saved: int
    loss: int
    interpreter: int
    reused: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        parts = self.weights + self.gradients + self.optimizer + self.saved + self.loss + self.interpreter
        return parts - self.reused


def estimate(
    model: Any, settings: Settings, *, positions: int, lora: Lora | None = None, quantize: Quantization | None = None
) -> Memory:
    """What training `model`, a `Decoder` as it is before `finetune`, takes with micro-batches of so many positions.

    lora None: all of it trains. quantize: how the weights of `model`, which aren't, will be rounded. ValueError for
    settings of LoRA that mean no layer.
    """
    held = sum(each.numel() * each.element_size() for each in _tensors(model))
    if quantize is not None:
        rounded = [weight for layer in llm_quant.targets(model).values() for weight in llm_quant.weights_of(layer)]
        held -= sum(round(each.numel() * (each.element_size() - BYTES[quantize])) for each in rounded)
    size = next(model.parameters()).element_size()
    if lora is None:
        trained, trained_bytes = sum(each.numel() for each in model.parameters()), size
        copies = held if settings.objective == "dpo" else 0  # the model before training
    else:
        targets = [model.get_submodule(path) for path in lora_targets(model, lora)]
        trained, trained_bytes, copies = sum(lora.r * sum(sizes_of(each)) for each in targets), 4, 0
        held += 4 * trained
    gradients = trained * trained_bytes
    saved = round(HOLES.get(size, HOLES[2]) * size * positions * _kept(model, settings, full=lora is None))
    single = settings.train.global_batch_size <= settings.train.micro_batch_size
    return Memory(
        weights=held + copies,
        gradients=gradients,
        optimizer=trained * _STATE[settings.optimizer.name] * trained_bytes // 4,
        saved=saved,
        loss=LOGITS * 4 * min(settings.train.chunk_size, positions) * model.config.vocab_size,
        interpreter=INTERPRETER,
        reused=min(gradients, saved) // 2 if single else 0,
    )


def _kept(model: Any, settings: Settings, *, full: bool) -> float:
    """Numbers that are kept for each position; with activation checkpointing of one layer and the ends of all."""
    dim = model.config.dim
    layers = [_layer(layer, dim, full=full) for layer in model.mid.values()]
    if settings.train.activation_checkpointing:
        return max(layers, default=0.0) + dim * len(layers)
    return sum(layers)


def _layer(layer: nn.Module, dim: int, *, full: bool) -> float:
    sizes = [sizes_of(each) for each in layer.modules() if is_linear(each)]
    outputs, inputs = sum(n for n, _ in sizes), sum(k for _, k in sizes)
    return OUTPUTS * outputs + WIDTHS * dim + (INPUTS * inputs if full else 0)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """Weights, also quantized ones, each once."""
    return list({id(each): each for each in [*model.parameters(), *model.buffers()]}.values())
