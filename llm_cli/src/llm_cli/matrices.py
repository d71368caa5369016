"""The matrices of a model that can be quantized, one by one as files have them.

Shapes: N rows (outputs), K columns (inputs).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import llm_quant
from llm_blocks.mlp import Experts


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A matrix (N, K). `strides` are those that it has in a tensor of a file, where it may lie transposed (GPT-2)."""

    out_features: int
    in_features: int
    strides: tuple[int, ...]

    def of(self, stored: Tensor) -> Tensor:
        """The matrix of a tensor as files have it."""
        return stored.contiguous().as_strided((self.out_features, self.in_features), self.strides)


def matrices(model: nn.Module) -> dict[str, Matrix]:
    """Each matrix of the layers that `llm_quant.quantize` takes, by our name of the layer that files have for it.

    That is the layer's own, and for an expert of a stack as in "mid.3.mlp.experts.7.down".
    """
    return {path: matrix for name, layer in llm_quant.targets(model).items() for path, matrix in _of(name, layer)}


def unquantized(model: nn.Module) -> Iterator[str]:
    """The names of the layers that multiply and are no such matrices: routers, and those whose numbers are needed.

    Other programs have to be told of them, for to them they are linear layers.
    """
    found = llm_quant.targets(model)
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if name in found or isinstance(layer, nn.Embedding) or not isinstance(weight, Tensor):
            continue
        if weight.dim() == 2:
            yield name


def numbers(layers: dict[str, Matrix]) -> int:
    """How many numbers the matrices have."""
    return sum(matrix.out_features * matrix.in_features for matrix in layers.values())


def _of(name: str, layer: Any) -> Iterator[tuple[str, Matrix]]:
    views = {name: llm_quant.matrix_of(layer)} if not isinstance(layer, Experts) else _pieces(name, layer)
    for path, view in views.items():
        n, k = view.shape
        yield path, Matrix(out_features=n, in_features=k, strides=view.stride())


def _pieces(name: str, experts: Experts) -> dict[str, Tensor]:
    pieces = [piece for stack in experts.pieces().values() for piece in stack]
    return {f"{name}.{piece.removesuffix('.weight')}": view for piece, view in pieces}
