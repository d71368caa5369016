"""Memory that a process may still take, as Linux tells it."""

from pathlib import Path

import pytest

from llm_blocks import free_memory

LIMITS = ("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8,000 KiB to give and no control groups."""
    (tmp_path / "meminfo").write_text("MemTotal:  16000 kB\nMemFree:  1000 kB\nMemAvailable:   8000 kB\n")
    for name, file in (("MEMINFO", "meminfo"), ("OWN_GROUPS", "own"), ("GROUPS", "groups")):
        monkeypatch.setattr(free_memory, name, tmp_path / file)
    return tmp_path


def group(folder: Path, version: int, limit: str, used: int, active: int, inactive: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    most, usage, prefix = LIMITS[version - 1]
    (folder / most).write_text(f"{limit}\n")
    (folder / usage).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{prefix}active_file {active}\n{prefix}inactive_file {inactive}\n")


def test_without_groups_it_is_what_the_machine_has(system: Path) -> None:
    assert free_memory.free_memory() == 8000 * 1024
    (system / "own").write_text("0::/\n")
    assert free_memory.free_memory() == 8000 * 1024


def test_the_tightest_limit_counts_and_file_pages_are_free(system: Path) -> None:
    (system / "own").write_text("0::/user/one\n")
    group(system / "groups/user/one", 1, "max", 10, 0, 0)
    group(system / "groups/user", 1, "1000000", 700_000, 100_000, 50_000)
    assert free_memory.free_memory() == 450_000
    group(system / "groups/user/one", 1, "300000", 290_000, 0, 20_000)
    assert free_memory.free_memory() == 30_000


def test_version_1_has_other_names(system: Path) -> None:
    (system / "own").write_text("9:name=systemd:/\n5:cpuset:/\n4:cpu,memory:/one\n0::/\n")
    group(system / "groups/memory/one", 2, "1000000", 700_000, 100_000, 50_000)
    assert free_memory.free_memory() == 450_000


def test_in_a_container_the_root_has_the_limit(system: Path) -> None:
    """The path is the host's there, of which nothing but the group itself is to be seen, as the root."""
    (system / "own").write_text("0::/docker/1f2e\n")
    group(system / "groups", 1, "500000", 400_000, 0, 0)
    assert free_memory.free_memory() == 100_000


def test_where_nothing_is_told_there_is_none(system: Path) -> None:
    (system / "meminfo").unlink()
    assert free_memory.free_memory() == 0
