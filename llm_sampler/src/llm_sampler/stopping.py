"""When a row ends: end ids, stop sequences, budgets and bad logits, decided on the device.

Shapes: B batch, E end ids, P stop sequences, N longest stop sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .options import check_integer, per_row

RUNNING, STOP, LENGTH, BAD = range(4)
_NO_ID = -2  # never an id and never the -1 of an ended row


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """The rules of a batch on its device; `Stopping.of` checks and builds them."""

    budgets: Tensor  # (B,) int64
    most: int  # the largest budget
    ends: Tensor | None  # (B, E) int64, filled with -2
    stops: Tensor | None  # (B, P, N) int64, right-aligned, filled with -2
    minimum: Tensor | None  # (B,) ids below which a stop sequence doesn't count

    @staticmethod
    def of(
        batch: int,
        device: torch.device,
        *,
        max_new_tokens: Any,
        end_ids: Any = (),
        stop_ids: Any = (),
        min_new_tokens: Sequence[float] = (),
    ) -> "Stopping":
        """Check the rules of `sample` and lay them out; raises ValueError."""
        budgets = per_row("max_new_tokens", max_new_tokens, batch)
        for budget in budgets:
            check_integer("max_new_tokens", budget, 0)
        stops = _stop_table(stop_ids, batch)
        return Stopping(
            budgets=torch.tensor(budgets, device=device),
            most=max(budgets),
            ends=_to_device(_end_table(end_ids, batch), device),
            stops=_to_device(stops, device),
            minimum=torch.tensor(min_new_tokens, device=device) if any(min_new_tokens) and stops is not None else None,
        )

    @property
    def early(self) -> bool:
        """Whether a row may end before its budget, which only the device knows."""
        return self.ends is not None or self.stops is not None

    def start(self) -> tuple[Tensor, Tensor | None]:
        """The codes (B,) before the first step and the window (B, N) of last ids, None without stop sequences."""
        codes = torch.where(self.budgets > 0, RUNNING, LENGTH)
        window = None if self.stops is None else torch.full_like(self.stops[:, 0], -1)
        return codes, window

    def advance(self, codes: Tensor, ids: Tensor, bad: Tensor, step: Tensor, window: Tensor | None) -> Tensor:
        """The codes after the rows have got these ids as their id number `step` (0 is the first)."""
        now = torch.where(step + 1 >= self.budgets, LENGTH, RUNNING)
        if self.ends is not None:
            now = torch.where((ids.unsqueeze(1) == self.ends).any(dim=1), STOP, now)
        if self.stops is not None and window is not None:
            now = torch.where(self._stopped(window, step), STOP, now)
        return torch.where(codes == RUNNING, torch.where(bad, BAD, now), codes)

    def _stopped(self, window: Tensor, step: Tensor) -> Tensor:
        assert self.stops is not None
        same = (window.unsqueeze(1) == self.stops) | (self.stops == _NO_ID)  # (B, P, N)
        # A row that has no sequence has a filler line of -2 alone, which matches nothing.
        stopped = (same.all(dim=2) & (self.stops[:, :, -1] != _NO_ID)).any(dim=1)
        return stopped if self.minimum is None else stopped & (step + 1 >= self.minimum)


def _to_device(table: Tensor | None, device: torch.device) -> Tensor | None:
    return None if table is None else table.to(device)


def as_lists(value: Any) -> Any:
    """A tensor or sequence as nested lists, and what is neither as it is."""
    if isinstance(value, Tensor):
        return value.tolist()
    return [as_lists(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def check_ids(name: str, ids: Sequence[Any]) -> list[int]:
    """The ids as a list. Raises ValueError for what is no id."""
    for value in ids:
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} must hold ids (integers of at least 0), got {value!r}.")
    return list(ids)


def _rows(name: str, listed: Any, batch: int, *, one_for_all: bool) -> list[list[Any]]:
    if one_for_all:
        return [listed] * batch
    if not isinstance(listed, list) or len(listed) != batch or not all(isinstance(row, list) for row in listed):
        raise ValueError(f"{name} must be one list for all rows, or a list of {batch} (one per row), got {listed!r}.")
    return listed


def _end_table(end_ids: Any, batch: int) -> Tensor | None:
    listed = as_lists(end_ids)
    flat = isinstance(listed, list) and not any(isinstance(row, list) for row in listed)
    rows = [check_ids("end_ids", row) for row in _rows("end_ids", listed, batch, one_for_all=flat)]
    width = max(map(len, rows))
    return torch.tensor([row + [_NO_ID] * (width - len(row)) for row in rows]) if width else None


def _stop_table(stop_ids: Any, batch: int) -> Tensor | None:
    listed = as_lists(stop_ids)
    rows = _rows("stop_ids", listed, batch, one_for_all=isinstance(listed, list) and _holds_sequences(listed))
    for stop in (stop for row in rows for stop in row):
        if not isinstance(stop, list) or not stop:
            raise ValueError(f"stop_ids must hold sequences with at least one id, got {stop!r}.")
        check_ids("stop_ids", stop)
    lines = max(map(len, rows))
    width = max((len(stop) for row in rows for stop in row), default=0)
    if not width:
        return None
    padded = [[[_NO_ID] * (width - len(stop)) + stop for stop in row] for row in rows]
    return torch.tensor([row + [[_NO_ID] * width] * (lines - len(row)) for row in padded])


def _holds_sequences(listed: list[Any]) -> bool:
    """Whether these are sequences of ids for all rows, and not, one level deeper, a list of sequences per row."""
    return not listed or any(isinstance(row, list) and row and not isinstance(row[0], list) for row in listed)
