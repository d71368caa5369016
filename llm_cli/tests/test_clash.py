"""Another program called llm is found by its package and by PATH, and told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm_cli.app import run
from llm_cli.clash import other_command


@pytest.fixture(autouse=True)
def _empty_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)


def script(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llm"
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_alone() -> None:
    assert other_command() is None


def test_a_script_of_ours_is_no_other(tmp_path: Path) -> None:
    script(tmp_path / "bin", "#!/usr/bin/python3\nfrom llm_cli.__main__ import main\nmain()\n")
    assert other_command() is None


def test_another_program_on_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path / "bin", "#!/usr/bin/python3\nfrom llm.cli import cli\ncli()\n")
    assert str(path) in (other_command() or "")
    assert run(["nosuch"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("llm: error: there is no command 'nosuch'")
    assert said[1].startswith("llm: note: ")
    assert "`python -m llm_cli` always runs this one" in said[1]


def test_another_package_with_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "llm-0.32.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm\nVersion: 0.32\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nllm = llm.cli:cli\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert "the installed package 'llm'" in (other_command() or "")
