"""What a run tells on its way, and what it gives at its end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that a run tells of: its start, a logged step, an evaluation, a text, a checkpoint or its end.

    `step` is how many are done. The values of "start" are the `steps` and `rows` of the run, the `tokens` and `seconds`
    that are behind it where it goes on, its `processes` and `settings`; of "step" a row of metrics.csv and
    `tokens_per_second`, of steps alone since the last one told; of "eval" `val_loss`, `best_loss` and `best_step`; of
    "sample" `prompt` and `text`; of "save" `path`; of "end" `final` and `interrupted`.
    """

    kind: str  # "start", "step", "eval", "sample", "save" or "end"
    step: int
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of a run. `final` is the folder of the result, None where there is none or the run was interrupted.

    `checkpoint` is the newest one; `history` has a row of numbers for each step that was logged or evaluated. `before`
    and `after` are what the model makes of the prompt of one row, with the weights that it was given and those of
    `final`; None without a tokenizer, and `after` of an interrupted run.
    """

    final: Path | None
    checkpoint: Path | None
    step: int
    train_loss: float | None
    val_loss: float | None
    interrupted: bool
    before: str | None
    after: str | None
    history: Sequence[Mapping[str, float]]


OnEvent = Callable[[Event], None]
