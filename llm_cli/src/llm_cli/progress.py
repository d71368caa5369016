"""Progress of transfers and of writing on stderr: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from llm_cli.hub_files import RemoteFile
from llm_cli.output import human_bytes
from llm_cli.transfer import Bar

COLUMNS = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())


class TransferBars:
    """A bar for each file and one for the whole, fed by the bytes that arrive."""

    def __init__(self, progress: Progress, total: str) -> None:
        self.progress, self.live = progress, not progress.disable
        self.whole = progress.add_task(total, total=None)

    def expect(self, files: Sequence[RemoteFile]) -> None:
        """Set the size of the whole, once the weights are known."""
        self.progress.update(self.whole, total=sum(file.size or 0 for file in files), completed=0)

    def of(self, file: RemoteFile) -> Callable[..., Bar]:
        """A maker of the file's bar, called by whoever opens the transfer with the size and the resumed bytes."""
        return lambda total=None, initial=0, **_: _FileBar(self, file, total, initial)


class _FileBar:
    def __init__(self, bars: TransferBars, file: RemoteFile, total: int | None, initial: int) -> None:
        self.bars = bars
        if not bars.live:
            resumed = f", resumed at {initial:,}" if initial else ""
            sys.stderr.write(f"fetching {file.name} ({total or 0:,} bytes{resumed})\n")
        self.task = bars.progress.add_task(file.name, total=total, completed=initial)
        bars.progress.advance(bars.whole, initial)

    def update(self, count: int | float | None = 1) -> None:
        self.bars.progress.advance(self.task, count or 0)
        self.bars.progress.advance(self.bars.whole, count or 0)

    def __enter__(self) -> _FileBar:
        return self

    def __exit__(self, *exc: object) -> None:
        self.bars.progress.remove_task(self.task)


@contextmanager
def byte_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for the length of the block, fed with bytes; where that is no terminal, a line with the first."""
    console = Console(stderr=True)
    live = console.is_terminal
    with Progress(*COLUMNS, TimeRemainingColumn(), console=console, disable=not live) as progress:
        task = progress.add_task(what, total=total)

        def advance(count: int) -> None:
            if not live and progress.tasks[0].completed == 0:
                sys.stderr.write(f"{what}: {human_bytes(total)}\n")
            progress.advance(task, count)

        yield advance


@contextmanager
def token_bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for the length of the block, fed with tokens; a line where that is no terminal."""
    console = Console(stderr=True)
    live = console.is_terminal
    if not live:
        sys.stderr.write(f"{what}: {total:,} tokens\n")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not live) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def transfer_bars(total: str) -> Iterator[TransferBars]:
    """Bars on stderr for the length of the block; `total` is the name of the whole."""
    console = Console(stderr=True)
    with Progress(*COLUMNS, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        yield TransferBars(progress, total)
