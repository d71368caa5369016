import subprocess
import sys
from pathlib import Path

import pytest

from llm_finetune import memory

SCRIPT = """
import torch
from llm_finetune import memory
before = memory.used()
held = torch.ones(64, 1024, 1024)
assert memory.used() - before > held.nbytes // 2
assert memory.peak() >= memory.used()
del held
assert memory.peak() >= before + 128 * 2**20
"""


@pytest.mark.skipif(not memory.STATUS.exists(), reason="needs Linux")
def test_memory_in_use_and_its_peak_follow_what_is_held() -> None:
    """In a process of its own, which has no free memory of earlier tests to take it from."""
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_a_system_without_proc_is_asked_for_the_peak_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    most = memory.peak()
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    assert memory.used() == 0
    assert memory.peak() >= most // 2
