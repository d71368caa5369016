"""What a model says of its fused projections against what it computes with them.

Shapes: B batch, T time, N outputs.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

import llm_quant
from llm_blocks.fused import Parts, parts_of

FUSED = ("qkv", "gate_up")


@torch.inference_mode()
def check_parts(model: Any, ids: Tensor) -> None:
    """Every fused projection has parts that make up its outputs, and those of attention are what they are called.

    With the rows of the first layer's keys set to 0, its keys for ids (B, T) are 0 and its values as before; with those
    of the values it is the other way round, and with those of the queries both are as before.
    """
    found = parts_of(model)
    layers = {path: layer for path, layer in llm_quant.targets(model).items() if path.rpartition(".")[2] in FUSED}
    assert found.keys() == layers.keys(), f"parts are told of {sorted(found)}, and {sorted(layers)} are fused"
    for path, parts in found.items():
        n = llm_quant.matrix_of(layers[path]).size(0)
        assert parts.total == n, f"the parts of {path} are {parts.total} outputs of {n}"
    first = [path for path in found if path.endswith("attention.qkv")][:1]
    for path in first:
        for part in found[path].names:
            _check_part(model, ids, path, found[path], part)


def _check_part(model: Any, ids: Tensor, path: str, parts: Parts, part: str) -> None:
    without = deepcopy(model)
    layer = without.get_submodule(path)
    _clear(llm_quant.matrix_of(layer), parts, part)
    if isinstance(layer.bias, Tensor):
        _clear(layer.bias, parts, part)
    before, after = _remembered(model, ids), _remembered(without, ids)
    for name in ("k", "v"):
        wanted = torch.zeros_like(before[name]) if name == part else before[name]
        assert torch.equal(after[name], wanted), (
            f"without the rows of {part} in {path}, {name} is another than expected"
        )
    if part == "q":
        assert not torch.equal(without(ids), model(ids)), f"the queries of {path} change nothing"


def _clear(tensor: Tensor, parts: Parts, part: str) -> None:
    """Set the rows of a part to 0, of a matrix or a bias that has N."""
    for first in range(0, parts.total, parts.run):
        span = parts.span(part)
        tensor[first + span.start : first + span.stop] = 0


def _remembered(model: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """The first layer's keys and values of ids."""
    whole: Any = model
    cache = whole.new_cache(*ids.shape)
    whole(ids, cache)
    return {name: storage[min(storage)] for name, storage in cache.storages.items()}
