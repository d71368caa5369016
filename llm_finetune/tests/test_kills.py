"""A run that is killed at any moment goes on from its newest checkpoint and ends as if nothing had been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_finetune import state

SCRIPT = str(Path(__file__).with_name("kills_script.py"))
pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")


@pytest.fixture(scope="module")
def begin() -> Any:
    """A function that begins a run in a process of its own: a copy of one that has imported all, to save the time.

    It gives the number of the process, and a function that waits for its end and gives the exit code.
    """
    server = subprocess.Popen(
        [sys.executable, SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    stdin, stdout = server.stdin, server.stdout
    assert stdin is not None
    assert stdout is not None

    def start(folder: Path, kind: str) -> tuple[int, Callable[[], int]]:
        stdin.write(json.dumps([str(folder), kind]) + "\n")
        return int(stdout.readline()), ended

    def ended() -> int:
        stdin.write("\n")
        return int(stdout.readline())

    yield start
    stdin.close()
    stdout.close()
    assert server.wait() == 0


def _run(begin: Any, folder: Path, kind: str, *, kill_after: float | None = None) -> None:
    process, ended = begin(folder, kind)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)  # one that has ended keeps its number until it is waited for
    assert ended() in (0, -signal.SIGKILL)


def _kill_often(begin: Any, folder: Path, kills: int, kind: str) -> None:
    """End the run so many times at random moments, where every checkpoint must be whole, then let it finish."""
    draw = random.Random(5)
    _run(begin, folder / "whole", kind)
    for _ in range(kills):
        _run(begin, folder / "parts", kind, kill_after=draw.uniform(0.0, 0.5))
        found = state.checkpoints(folder / "parts")
        assert not found or state.newest(folder / "parts") == found[-1]
        if (folder / "parts" / "final").exists():
            _check_alike(folder)
            shutil.rmtree(folder / "parts")
    _run(begin, folder / "parts", kind)
    _check_alike(folder)
    assert not [path.name for path in (folder / "parts").iterdir() if path.name.startswith(".")]


def _check_alike(folder: Path) -> None:
    final = sorted((folder / "whole" / "final").glob("*.safetensors"))[0].name
    for file in (f"final/{final}", "step-000060/trained.safetensors", "step-000060/optimizer.safetensors"):
        assert (folder / "whole" / file).read_bytes() == (folder / "parts" / file).read_bytes(), file


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_after_any_kill_the_run_ends_as_if_nothing_had_been(begin: Any, tmp_path: Path, kills: int) -> None:
    _kill_often(begin, tmp_path, kills, "full")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "dora", "qlora", "adapter", "adapter_v2", "bf16-mixed", "16-mixed"])
def test_so_it_does_by_every_method_and_precision(begin: Any, tmp_path: Path, kind: str) -> None:
    _kill_often(begin, tmp_path, 6, kind)
