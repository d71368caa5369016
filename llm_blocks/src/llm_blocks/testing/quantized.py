"""A model with weights of whole numbers against the same model with the numbers that they stand for."""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

import llm_quant

GROUPS = (64, 32, 16, 8, 4, 2)


@torch.inference_mode()
def check_quantized(model: Any, ids: Tensor, scheme: llm_quant.Scheme) -> None:
    """Quantized, a model computes what its rounded weights say, and little else than it did before.

    Products are of activations that the kernels round, by some 1e-5. What rounding the weights changes is bounded by
    the relative error of the weights times the products in a row that a number goes through, about four a layer.
    """
    group = next(size for size in GROUPS if all(w.size(-1) % size == 0 for w in _weights(model)))
    quantized = llm_quant.quantize(deepcopy(model), scheme, group_size=group)
    left = [name for name in llm_quant.targets(model) if name in llm_quant.targets(quantized)]
    assert not left, f"{left} are not quantized"
    reference, error = _rounded(model, scheme, group)
    found, wanted, before = quantized(ids), reference(ids), model(ids)
    rows = [_apart(*row) for row in zip(found, wanted, strict=True)]
    mixture = any(isinstance(layer, llm_quant.Stacked) for layer in llm_quant.targets(model).values())
    # Where two experts are as good, rounding may send a token through the other one, which those after it see.
    apart = min(rows) if mixture else max(rows)
    assert apart < 2e-4, f"{apart:.1e} from what the rounded weights compute"
    changed, products = _apart(found, before), 4 * len(model.mid) + 1
    assert error / 4 < changed < error * products, f"{changed:.1e} of the logits, {error:.1e} of the weights"


def _weights(model: nn.Module) -> list[Tensor]:
    return [weight for layer in llm_quant.targets(model).values() for weight in llm_quant.weights_of(layer)]


def _rounded(model: Any, scheme: str, group: int) -> tuple[Any, float]:
    """A copy with the numbers that whole ones stand for, and the relative error of those."""
    copied, squares, errors = deepcopy(model), 0.0, 0.0
    if copied.config.tie_embeddings and copied.end is not None:  # the embedding stays
        copied.end.head.weight = nn.Parameter(copied.end.head.weight.clone())
    for weight in _weights(copied):
        for matrix in weight if weight.dim() == 3 else [weight]:
            rounded = llm_quant.round_int8(matrix) if scheme == "int8" else llm_quant.round_int4(matrix, group)
            new = rounded.dequantize()
            squares += float(matrix.square().sum())
            errors += float((new - matrix).square().sum())
            matrix.copy_(new)
    return copied, math.sqrt(errors / squares)


def _apart(found: Tensor, wanted: Tensor) -> float:
    """The mean difference over the mean."""
    return float((found - wanted).abs().mean() / wanted.abs().mean())
