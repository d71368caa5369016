"""What reaches a terminal, a pipe and a console that lacks characters."""

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from llm_cli.app import run
from llm_cli.output import noticed, visible, write_json, write_lines, write_text

HARM = "a\x1b]0;title\x07\x1b[2Jb\rc\x9b31m\td\ne\x7f é"
HARMLESS = "a␛]0;title␇␛[2Jbc\ufffd31m\td\ne␡ é"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_pictures_of_control_characters(monkeypatch: pytest.MonkeyPatch):
    """Escape sequences in what a model said moved the cursor and retitled the window."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    write_text(HARM)
    write_lines(HARM)
    assert sys.stdout.getvalue() == HARMLESS + HARMLESS + "\n"  # type: ignore[attr-defined]


def test_a_pipe_gets_the_text_as_it_is(capsys: pytest.CaptureFixture[str]):
    write_text(HARM)
    assert capsys.readouterr().out == HARM


def test_json_is_ascii_and_reads_back(capsys: pytest.CaptureFixture[str]):
    write_json({"text": HARM})
    out = capsys.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"text": HARM}


def test_an_error_that_quotes_a_checkpoint_controls_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run(["generate", "no\x1b[2Jmodel"]) == 1
    assert "no␛[2Jmodel" in capsys.readouterr().err


def test_every_visible_text_has_only_tabs_and_line_ends_of_the_controls():
    everything = visible("".join(map(chr, range(0x100))))
    assert [char for char in everything if not char.isprintable() and ord(char) < 0xA0] == ["\t", "\n"]


def test_a_console_that_lacks_characters_gets_question_marks():
    """The encoder's error ended the command in the middle of an answer."""
    program = "import llm_cli.app as a; from llm_cli.__main__ import main; a.run = lambda: print('lläma'); main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ll?ma\n", b"")


def test_only_warnings_of_the_kind_become_lines(capsys: pytest.CaptureFixture[str]):
    with noticed(UserWarning):
        warnings.warn("odd\x1b[2J", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: odd␛[2J\n"
    with pytest.raises(DeprecationWarning, match="old"), noticed(UserWarning):  # as the tests have it
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_warnings_before_a_failure_are_told(capsys: pytest.CaptureFixture[str]):
    """They were lost, though they may say why it failed."""

    def fail() -> None:
        with noticed(UserWarning):
            warnings.warn("odd", UserWarning, stacklevel=1)
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail()
    assert capsys.readouterr().err == "warning: odd\n"
