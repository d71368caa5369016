"""Prompts of unequal length in one tensor, padded on the right.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .options import check_integer

INTEGER_TYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def read_prompts(input_ids: Tensor, lengths: Tensor | Sequence[int] | None, pad_id: int) -> tuple[Tensor, Tensor]:
    """Check prompts and their lengths: (ids (B, T) with pad_id behind each row's end, lengths (B,)), both int64.

    T is cut to the longest row. Raises ValueError for a wrong shape or dtype, an empty row, a negative id.
    """
    if not isinstance(input_ids, Tensor) or input_ids.dim() != 2 or input_ids.dtype not in INTEGER_TYPES:
        got = type(input_ids).__name__
        if isinstance(input_ids, Tensor):
            got = f"{input_ids.dtype} {tuple(input_ids.shape)}"
        raise ValueError(f"input_ids must be a tensor of integers (B, T), got {got}; use torch.tensor([ids]).")
    batch, width = input_ids.shape
    if batch == 0 or width == 0:
        raise ValueError(f"input_ids must hold at least one row and one id, got shape ({batch}, {width}).")
    check_integer("pad_id", pad_id, 0)
    real = read_lengths(lengths, batch, width)
    width = max(real)
    device = input_ids.device
    ids = input_ids[:, :width].to(torch.int64)
    if min(real) < width:
        inside = torch.arange(width, device=device) < torch.tensor(real, device=device).unsqueeze(1)
        ids = torch.where(inside, ids, pad_id)
    if int(ids.min()) < 0:
        raise ValueError("input_ids must not be negative; give `lengths` if they are padding behind the rows' ends.")
    return ids, torch.tensor(real, device=device)


def read_lengths(lengths: Any, batch: int, width: int) -> list[int]:
    """The real length of each row as a list, the width for None. Raises ValueError."""
    if lengths is None:
        return [width] * batch
    real = lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)
    if len(real) != batch:
        raise ValueError(f"lengths must hold one integer per row ({batch}), got {len(real)}.")
    for row, length in enumerate(real):
        if type(length) is not int or not 1 <= length <= width:
            raise ValueError(f"lengths must be integers from 1 to {width} (the width), got {length!r} for row {row}.")
    return real


def check_logits(logits: Any, inputs: Tensor) -> Tensor:
    """The result of forward_func, if it is logits (B, T, V) or (B, 1, V) for ids (B, T); else ValueError."""
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"forward_func must return a tensor of logits (B, T, V), got {type(logits).__name__}; for a Hugging Face "
            "model use `lambda ids: model(ids).logits`."
        )
    batch, width = inputs.shape
    if logits.dim() != 3 or logits.shape[0] != batch or logits.shape[1] not in (1, width) or not logits.shape[2]:
        raise ValueError(
            f"forward_func must return logits (B, T, V) or (B, 1, V) for ids ({batch}, {width}), "
            f"got {tuple(logits.shape)}."
        )
    if not logits.dtype.is_floating_point:
        raise ValueError(f"forward_func must return logits of a floating-point dtype, got {logits.dtype}.")
    return logits


def last_logits(logits: Any, inputs: Tensor, lengths: Tensor) -> Tensor:
    """The logits (B, V) at each row's last real position, from what forward_func returned for the inputs."""
    logits = check_logits(logits, inputs)
    if logits.shape[1] == 1:
        last = logits[:, 0]
    else:
        last = logits[torch.arange(logits.shape[0], device=logits.device), lengths.to(logits.device) - 1]
    # The end of a slice chain or a remote model may sit on another device than the ids.
    return last.to(inputs.device)
