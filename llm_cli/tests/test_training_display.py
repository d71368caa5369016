"""What is shown of a run: one line that follows it on a terminal, lines now and then elsewhere."""

import io
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn

from llm_cli.training_display import PAUSE, TrainingDisplay
from llm_finetune.events import Event


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def feed(display: TrainingDisplay, clock: Clock, *, done: int = 0, steps: int = 100) -> None:
    display(Event(kind="start", step=done, values={"steps": steps, "rows": 1234}))
    for step in range(done + 1, steps + 1):
        clock.now += 1
        row: dict[str, Any] = {"loss": 5 - step / 50, "epoch": step / 50, "seconds": float(step), "learning_rate": 1e-3}
        if step == 50:
            row["val_loss"] = 4.25
        display(Event(kind="step", step=step, values={**row, "tokens_per_second": 1500.0}))
        if step == 50:
            display(Event(kind="sample", step=step, values={"prompt": "p", "text": "a \x1b[31mred\nfox"}))
            display(Event(kind="save", step=step, values={"path": "out/step-000050"}))


def made(*, live: bool) -> tuple[TrainingDisplay, Clock, Progress, io.StringIO]:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=live, width=160)
    progress = Progress(TextColumn("{task.completed}/{task.total} {task.fields[numbers]}"), console=console)
    return TrainingDisplay(progress, live=live, memory=lambda: 3 * 10**9, clock=clock), clock, progress, text


def test_without_a_terminal_there_are_lines_now_and_then(capsys: Any) -> None:
    display, clock, _, _ = made(live=False)
    feed(display, clock)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training on 1,234 rows in 100 steps"
    steps = [line for line in lines if line.startswith("step ")]
    assert 100 / PAUSE <= len(steps) <= 100 / PAUSE + 3
    assert steps[0].startswith("step 1/100: epoch 0.02, loss 4.98, lr 0.001, 1,500 tokens/s, 3.0 GB")
    assert steps[0].endswith("0:01:39 left")
    assert any(line.startswith("step 50/100") and "val loss 4.25" in line for line in steps)
    assert steps[-1].startswith("step 100/100: epoch 2, loss 3, lr 0.001, val loss 4.25, 1,500 tokens/s")
    assert "left" not in steps[-1]
    assert r"sample: 'a \x1b[31mred\nfox'" in lines
    assert "saved out/step-000050" in lines


def test_on_a_terminal_one_line_follows_the_run_and_others_stand_above_it(capsys: Any) -> None:
    display, clock, progress, text = made(live=True)
    with progress:
        feed(display, clock, done=40)
    shown = text.getvalue()
    assert "of which 40 are done" in shown
    assert "100/100 epoch 2, loss 3, lr 0.001, val loss 4.25" in shown
    assert r"sample: 'a \x1b[31mred\nfox'" in shown
    assert not capsys.readouterr().err


def test_a_run_without_validation_or_memory_says_what_there_is(capsys: Any) -> None:
    progress = Progress(disable=True)
    display = TrainingDisplay(progress, live=False, memory=lambda: 0)
    display(Event(kind="start", step=0, values={"steps": 1, "rows": 2}))
    display(Event(kind="step", step=1, values={"loss": 2.5}))
    assert capsys.readouterr().err.splitlines() == ["training on 2 rows in 1 steps", "step 1/1: loss 2.5"]
