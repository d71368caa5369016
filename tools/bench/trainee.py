"""One system that trains in a process of its own, a few steps whenever it is asked, by lines of JSON.

    stdin   {"system": …}                        the fields of trainers.Task, once
    stdout  {"weight_bytes": …, "note": …, "before": …}   ready, and the memory before the model was there
    stdin   {"steps": 5}
    stdout  {"seconds": …, "losses": […], "peak": …}      and so on until stdin ends

Memory is resident bytes; `peak` is the most that the process has had since it began. In between it waits for its next
line, in the middle of its loop.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from contestant import private_stdout
from trainers import Task, Unavailable, run

STATUS = Path("/proc/self/status")


class Ended(Exception):
    """Nobody asks any more."""


class Steps:
    """Answers each request when as many steps as it asks for are done."""

    def __init__(self, replies: Any, requests: Any, before: int) -> None:
        self._replies, self._requests, self._before = replies, requests, before
        self._losses: list[float] = []
        self._wanted, self._since = 0, 0.0

    def start(self, weight_bytes: int, note: str) -> None:
        self._reply({"weight_bytes": weight_bytes, "note": note, "before": self._before})
        self._next()

    def tick(self, loss: float) -> None:
        self._losses.append(loss)
        if len(self._losses) == self._wanted:
            seconds = time.perf_counter() - self._since
            self._reply({"seconds": seconds, "losses": self._losses, "peak": memory("VmHWM")})
            self._next()

    def _next(self) -> None:
        line = self._requests.readline()
        if not line:
            raise Ended
        self._losses, self._wanted, self._since = [], int(json.loads(line)["steps"]), time.perf_counter()

    def _reply(self, message: dict[str, Any]) -> None:
        self._replies.write(json.dumps(message) + "\n")


def memory(name: str) -> int:
    """Bytes of this process by their name in /proc."""
    lines = STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    replies = private_stdout()
    task = Task(**json.loads(sys.stdin.readline()))
    import torch

    torch.set_num_threads(task.threads)
    steps = Steps(replies, sys.stdin, memory("VmRSS"))
    try:
        run(task, steps.start, steps.tick)
    except Unavailable as error:
        replies.write(json.dumps({"unavailable": str(error)}) + "\n")
    except Ended:
        return


if __name__ == "__main__":
    main()
