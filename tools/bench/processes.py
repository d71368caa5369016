"""The parent's side of contestant.py: a process that is asked and answers in lines of JSON, within limits.

A process that dies, takes too long or answers something else is ended, and `Gone` says what happened.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from common import Gone

MOST_BYTES = 2**16  # of an answer
LEAVING_S = 20  # that a process may take to end when it is told to


class Worker:
    """A process with its pipes; what it writes to stderr goes to the file `log`."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log, self._rest = log, b""
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # so that its children end with it
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self._end()

    def ask(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a message; Gone, and the process ended, where none comes in that time."""
        try:
            return self._exchange(message, seconds)
        except Gone:
            self._end()
            raise

    def close(self) -> None:
        """Let it end by itself, or end it."""
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVING_S)
        self._end()

    @property
    def _input(self) -> Any:
        return self._process.stdin

    def _exchange(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        try:
            self._input.write(json.dumps(message).encode() + b"\n")
            self._input.flush()
        except (BrokenPipeError, ValueError):  # ValueError: it was ended before
            raise Gone(self._death()) from None
        line = self._line(time.monotonic() + seconds, seconds)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):  # brackets in brackets, too many
            answer = None
        if not isinstance(answer, dict):
            raise Gone(f"it answered {line[:80]!r}, which is no JSON object")
        return answer

    def _line(self, deadline: float, seconds: float) -> bytes:
        output: Any = self._process.stdout
        while b"\n" not in self._rest:
            if len(self._rest) > MOST_BYTES:
                raise Gone(f"it answered more than {MOST_BYTES} bytes without an end")
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Gone(f"it gave no answer in {seconds:g} s")
            piece = os.read(output.fileno(), MOST_BYTES)
            if not piece:
                raise Gone(self._death())
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _death(self) -> str:
        """How it ended, and the last line that it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVING_S)
        code = self._process.poll()
        how = f"died of {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with {code}"
        lines = self._log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"it {how}{': ' + last[:200] if last else ''}"

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
