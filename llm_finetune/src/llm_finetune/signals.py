"""Ctrl-C and SIGTERM end a run after the step that is running, so that it is saved and can go on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """A block that gives the `stop` of `finetune`: a function that is true once SIGINT or SIGTERM came.

    The step that is running ends then, with an evaluation and a checkpoint that are due after it. A second signal does
    what it did before the block, which is to end the process at once (KeyboardInterrupt for SIGINT); after the block
    both do. ValueError outside of the main thread, the only one that Python lets handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError(
            "signals come to the main thread alone; call this there, or stop the run by a flag of your own"
        )
    came: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            _put_back(before)
            signal.raise_signal(number)

    try:
        for each in SIGNALS:
            before[each] = signal.signal(each, handle)
        yield lambda: bool(came)
    finally:
        _put_back(before)


def _put_back(handlers: dict[signal.Signals, Any]) -> None:
    for each, handler in handlers.items():
        # None stands for a handler that wasn't made by Python, which can't be put back
        signal.signal(each, signal.SIG_DFL if handler is None else handler)
