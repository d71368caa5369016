"""Parts of a model: which layers a slice runs and what goes in. Shapes: B batch, T time, C width."""

from itertools import pairwise

import torch
from torch import Tensor

from llm_blocks.config import MOST_LAYERS
from llm_sepweight import PartSpec


def part_layers(part: str | PartSpec, num_layers: int) -> tuple[PartSpec, range]:
    """The resolved part and the layers that it runs in one go.

    ValueError for a spec that breaks the grammar, ends beyond the model, or leaves a gap that running would jump over,
    and for a model of more layers than any has.
    """
    if num_layers > MOST_LAYERS:
        raise ValueError(f"a model of {num_layers} layers is not supported: the limit is 2^16")
    spec = (PartSpec.parse(part) if isinstance(part, str) else part).resolve(num_layers)
    ranges = sorted(spec.mid, key=lambda r: r.start)
    for left, right in pairwise(ranges):
        if left.stop != right.start:
            raise ValueError(
                f"part {spec} leaves out layers {left.stop}-{right.start}, so it can't run in one go; "
                "make one model for each range"
            )
    layers = range(ranges[0].start, ranges[-1].stop) if ranges else range(0)
    if spec.end and ranges and layers.stop != num_layers:
        raise ValueError(f"part {spec} has the end, so its layers must reach {num_layers}, not {layers.stop}")
    if spec.begin and spec.end and len(layers) != num_layers:
        raise ValueError(f"part {spec} has the beginning and the end, but not the {num_layers} layers between them")
    return spec, layers


def require_input(x: Tensor, *, begin: bool, dim: int) -> None:
    """Raise ValueError unless x is ids (B, T) for a part with the beginning, or hidden states (B, T, C) for another."""
    if begin and (x.dim() != 2 or x.dtype not in (torch.int64, torch.int32)):
        raise ValueError(f"a part with the beginning takes ids (B, T), got {x.dtype} of shape {tuple(x.shape)}")
    if not begin and (x.dim() != 3 or x.size(2) != dim or not x.is_floating_point()):
        raise ValueError(
            f"a part without the beginning takes hidden states (B, T, {dim}), got {x.dtype} of shape {tuple(x.shape)}"
        )
    if x.size(0) == 0 or x.size(1) == 0:
        raise ValueError(f"the input of shape {tuple(x.shape)} has no rows or no positions; give at least one of each")
