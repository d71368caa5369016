"""A long text cut into windows, each of which is one row of a call of the model.

Shapes: B windows in one call, T ids of a text or of a window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from .options import check_integer
from .prompts import INTEGER_TYPES


@dataclass(frozen=True, kw_only=True)
class Window:
    """The ids from `begin` to `end` of a text, of which those from `fresh` on are scored in this window."""

    begin: int
    fresh: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Windows:
    """A text (T,) in windows of `width` ids that begin every `stride` ids; each id is scored in the first with it.

    What stands before a window's first id is `prefix`, or without one the id before it: then nothing foretells the
    text's first id, and it isn't scored.
    """

    text: Tensor
    prefix: Tensor
    width: int
    stride: int

    @classmethod
    def of(cls, ids: Any, *, window: int, stride: int | None, prefix: Any) -> Self:
        """The windows for what a caller gave. ValueError for wrong ids, sizes, or a text without an id to score."""
        check_integer("window", window, 1)
        stride = window if stride is None else stride
        check_integer("stride", stride, 1)
        if stride > window:
            raise ValueError(f"stride must be at most window ({window}), or ids would be left out, got {stride}.")
        text, before = read_text("ids", ids), read_text("prefix", prefix)
        if len(text) < 2 - min(1, len(before)):
            raise ValueError(
                f"ids must hold an id and one before it, got {len(text)}; give a longer text, or prefix=[bos_id]."
            )
        return cls(text=text, prefix=before.to(text.device), width=window, stride=stride)

    @property
    def first(self) -> int:
        """The first id that is scored."""
        return 0 if len(self.prefix) else 1

    @property
    def scored(self) -> int:
        """How many ids are scored."""
        return len(self.text) - self.first

    def __iter__(self) -> Iterator[Window]:
        fresh, length = self.first, len(self.text)
        for begin in range(self.first, length, self.stride):
            end = min(begin + self.width, length)
            yield Window(begin=begin, fresh=fresh, end=end)
            if end == length:
                return
            fresh = end

    def inputs(self, window: Window) -> Tensor:
        """The ids (T,) that the model is given; the last `end - begin` of its logits foretell the window's ids."""
        before = self.prefix if len(self.prefix) else self.text[window.begin - 1 : window.begin]
        return torch.cat((before, self.text[window.begin : window.end - 1]))

    def batches(self, size: int) -> Iterator[Sequence[Window]]:
        """The windows, `size` at a time. The last one may be shorter and then comes alone, so that none is padded."""
        windows = list(self)
        shorter = windows[-1:] if windows[-1].end - windows[-1].begin < self.width else []
        whole = windows[: len(windows) - len(shorter)]
        yield from (whole[at : at + size] for at in range(0, len(whole), size))
        if shorter:
            yield shorter


def read_text(name: str, ids: Any) -> Tensor:
    """One text of ids as int64 (T,), from a tensor (T,) or (1, T) or a sequence of integers. Raises ValueError."""
    if not isinstance(ids, Tensor):
        wrong = next((i for i in ids if type(i) is not int), None)
        if wrong is not None:
            raise ValueError(f"{name} must be integers, got {wrong!r}.")
        ids = torch.tensor([*ids], dtype=torch.int64)
    text = ids.squeeze(0) if ids.dim() == 2 else ids
    if text.dim() != 1 or text.dtype not in INTEGER_TYPES:
        raise ValueError(f"{name} must be the integers of one text (T,), got {ids.dtype} {tuple(ids.shape)}.")
    if len(text) and int(text.min()) < 0:
        raise ValueError(f"{name} must not be negative, got {int(text.min())}.")
    return text.to(torch.int64)
