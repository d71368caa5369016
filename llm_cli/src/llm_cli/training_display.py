"""What `llm finetune` shows on stderr: one line that follows the run on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from llm_cli.output import human_bytes, visible, write_notice

if TYPE_CHECKING:
    from llm_finetune.events import Event

PAUSE = 5.0  # seconds between two lines of steps where stderr is no terminal
_NAMES = {"epoch": "epoch", "loss": "loss", "val_loss": "val loss", "learning_rate": "lr"}


class TrainingDisplay:
    """Told of a run's events; `memory` gives the bytes that the process has, `clock` seconds."""

    def __init__(
        self, progress: Progress, *, live: bool, memory: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._live, self._memory, self._clock = progress, live, memory, clock
        self._task = progress.add_task("", total=None, visible=False, numbers="")
        self._steps, self._validation = 0, ""
        self._last, self._saved = float("-inf"), None

    def __call__(self, event: Event) -> None:
        """Show what an event says."""
        values = event.values
        if event.kind == "start":
            self._begin(event)
        elif event.kind == "step":
            self._step(event)
        elif event.kind == "data":
            self._tell(f"{values['report']}; written in the style {values['style']}")
        elif event.kind == "sample":
            self._tell(f"sample: {values['text']!r}")
        elif event.kind == "save" and values["path"] != self._saved:  # the run's end tells its last one again
            self._saved = values["path"]
            self._tell(f"saved {values['path']}")

    def _begin(self, event: Event) -> None:
        self._steps = event.values["steps"]
        behind = f", of which {event.step:,} are done" if event.step else ""
        self._tell(f"training on {event.values['rows']:,} rows in {self._steps:,} steps{behind}")
        self._progress.update(self._task, total=self._steps, completed=event.step, visible=True)

    def _step(self, event: Event) -> None:
        values = event.values
        if "val_loss" in values:
            self._validation = f"val loss {values['val_loss']:.4g}"
        numbers = ", ".join(
            [*_numbers(values), *([self._validation] if self._validation else []), *self._rates(values)]
        )
        self._progress.update(self._task, completed=event.step, numbers=numbers)
        due = self._clock() - self._last >= PAUSE or "val_loss" in values or event.step >= self._steps
        if not self._live and due:
            self._last = self._clock()
            left = _left(event.step, self._steps, values)
            write_notice(f"step {event.step:,}/{self._steps:,}: {numbers}{left}")

    def _rates(self, values: Any) -> Iterator[str]:
        if values.get("tokens_per_second"):
            yield f"{values['tokens_per_second']:,.0f} tokens/s"
        memory = self._memory()
        if memory:
            yield human_bytes(memory)

    def _tell(self, text: str) -> None:
        """A line above the one that follows the run."""
        if self._live:
            self._progress.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
        else:
            write_notice(text)


@contextmanager
def training_display() -> Iterator[TrainingDisplay]:
    """The display of a run for the length of the block."""
    from llm_finetune import memory

    console = Console(stderr=True)
    columns = (
        *(BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}", markup=False)),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield TrainingDisplay(progress, live=console.is_terminal, memory=memory.used)


def _numbers(values: Any) -> Iterator[str]:
    for name in ("epoch", "loss", "learning_rate"):
        if name in values:
            yield f"{_NAMES[name]} {values[name]:.4g}"


def _left(step: int, steps: int, values: Any) -> str:
    """A clause on the time that is left at the rate so far."""
    if not 0 < step < steps or not values.get("seconds"):
        return ""
    seconds = round(values["seconds"] / step * (steps - step))
    return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
