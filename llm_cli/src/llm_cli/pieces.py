"""Where texts are cut that may share a beginning: always at the same positions, whatever was known before.

The last bits of a matrix product depend on how many rows it has. A beginning that is read in the same pieces, each a
forward of one row, has the same keys and values bit for bit, in whatever text, call or process it is read.
"""

from typing import Any

import torch

from llm_blocks import Rope

FINEST = 64  # positions of the first piece: a forward of fewer costs nearly as much
COARSEST = 256  # of every piece from there on: what is read again of a known text is shorter, but more would be slower


def cut_below(length: int) -> int:
    """The last cut at or before `length`: FINEST, its doubles, and multiples of COARSEST; 0 where there is none."""
    if length >= COARSEST:
        return length // COARSEST * COARSEST
    return FINEST << ((length // FINEST).bit_length() - 1) if length >= FINEST else 0


def next_cut(length: int) -> int:
    """The first cut behind `length`."""
    step = COARSEST if length >= COARSEST else max(FINEST, cut_below(length))
    return cut_below(length) + step


@torch.inference_mode()
def read_pieces(model: Any, kv: Any, ids: list[int], end: int) -> None:
    """Read the text `ids` up to its cut `end` into the one row of `kv`, from the cut that this has reached."""
    device = next(model.parameters()).device
    kv.aims[0] = len(ids)
    while kv.lengths[0] < end:
        piece = ids[kv.lengths[0] : next_cut(kv.lengths[0])]
        model(torch.tensor([piece], device=device), kv, last_only=True)


def angles(kv: Any, config: Any, length: int) -> int:
    """Equal for texts whose keys turn alike: a text of `length` has angles of its own with LongRoPE or dynamic ones."""
    trained = dynamic_from(config)
    if trained is not None:
        return max(length, trained)
    return int(kv.long_from is not None and length > kv.long_from)


def dynamic_from(config: Any) -> int | None:
    """The trained length of a model whose rotary embeddings are dynamic; None for any other."""
    ropes = [value for value in vars(config).values() if isinstance(value, Rope)]
    return min((rope.original_max_positions for rope in ropes if rope.kind == "dynamic"), default=None)


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many ids two texts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
