"""The command line as a whole: what is imported, exit codes, options, environment and errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_cli.app import COMMANDS, build_app, from_environment, run

PROBE = (
    "import sys; from llm_cli.app import run; code = run(sys.argv[1:]);"
    "print('HEAVY', sorted({heavy} & set(sys.modules))); sys.exit(code)"
)
HEAVY = {"torch", "numpy", "transformers", "huggingface_hub", "llm_blocks", "tokenizers"}


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    return subprocess.run(
        [sys.executable, *arguments], env={**env, **variables}, capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LLM_") and name != "LLM_TEST_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("llm_cli.clash.other_command", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of a command that takes an option of each kind, in the place of `llm doctor`."""
    calls: list[dict[str, Any]] = []

    def doctor(
        name: str = "none",
        /,
        *,
        prompt: str = "",
        max_new_tokens: int = 50,
        temperature: float = 1.0,
        multiline: bool = False,
        stop: list[str] | None = None,
    ) -> None:
        calls.append({k: v for k, v in locals().items() if k != "calls"})

    monkeypatch.setattr("llm_cli.commands.doctor.doctor", doctor)
    return calls


@pytest.mark.parametrize("argv", [["--help"], [], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    done = python("-c", PROBE.format(heavy=HEAVY), *argv)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n")


def test_python_m_llm_cli_is_the_command() -> None:
    done = python("-m", "llm_cli", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("llm_cli ")


def test_help_of_a_command_is_its_own_text(capsys: pytest.CaptureFixture[str]) -> None:
    """The summary in the list of commands once took its place."""
    assert run(["download", "--help"]) == 0
    assert "goes on where it stopped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--max_new_tokens", "10_000_000"], {"max_new_tokens": 10_000_000}),
        (["--max-new-tokens", "7"], {"max_new_tokens": 7}),
        (["--max_new_tokens=7"], {"max_new_tokens": 7}),
        (["--multiline"], {"multiline": True}),
        (["--multiline", "true", "x"], {"multiline": True, "name": "x"}),
        (["--multiline", "False", "x"], {"multiline": False, "name": "x"}),
        (["x", "--multiline=false"], {"multiline": False, "name": "x"}),
        (["--multiline", "x"], {"multiline": True, "name": "x"}),
        (["--temperature", "-1"], {"temperature": -1.0}),
        (["--prompt", "- milk\n- eggs"], {"prompt": "- milk\n- eggs"}),
        (["--prompt", "--- a title"], {"prompt": "--- a title"}),
        (["--prompt=--help"], {"prompt": "--help"}),
        (["--stop", "a", "--stop", "b"], {"stop": ["a", "b"]}),
        (["--max_new_tokens", "1", "--max_new_tokens", "2"], {"max_new_tokens": 2}),
        (["--", "--prompt"], {"name": "--prompt"}),
        (["--", "--debug"], {"name": "--debug"}),
    ],
)
def test_options_as_people_write_them(called: list[dict[str, Any]], argv: list[str], expected: dict[str, Any]) -> None:
    assert run(["doctor", *argv]) == 0
    assert {name: called[0][name] for name in expected} == expected


def test_options_from_the_environment(called: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_MAX_NEW_TOKENS", "1_000")
    monkeypatch.setenv("LLM_MULTILINE", "true")
    monkeypatch.setenv("LLM_STOP", "a b")
    monkeypatch.setenv("LLM_TEMPERATURE", "")
    assert run(["doctor"]) == 0
    assert called[0] | {"max_new_tokens": 1000, "multiline": True, "stop": ["a", "b"], "temperature": 1.0} == called[0]


def test_the_command_line_wins_over_the_environment(
    called: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_MAX_NEW_TOKENS", "1")
    assert run(["doctor", "--max_new_tokens", "2"]) == 0
    assert called[0]["max_new_tokens"] == 2


def test_other_variables_with_our_prefix_mean_nothing(
    called: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLM_TEST_DATA is ours but no option, LLM_NAME a positional argument, and LLM_STOP_X begins like an option."""
    for name in ("LLM_TEST_DATA", "LLM_NAME", "LLM_STOP_X", "LLM_PROMPTS", "LLM_HELP", "LLM_VERSION"):
        monkeypatch.setenv(name, "surprise")
    assert run(["doctor"]) == 0
    assert called[0]["name"] == "none"
    assert called[0]["stop"] is None


def test_a_wrong_value_from_the_environment_names_the_variable(
    called: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLM_MAX_NEW_TOKENS", "many")
    assert run(["doctor"]) == 2
    assert "LLM_MAX_NEW_TOKENS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["genrate"], "did you mean generate?"),
        (["--hepl"], "did you mean --help?"),
        (["doctor", "--tempreature", "1"], "did you mean --temperature?"),
        (["doctor", "--max-new-token", "1"], "did you mean --max_new_tokens?"),
        (["doctor", "--max_new_tokens", "many"], 'unable to convert "many" into int'),
        (["doctor", "--max_new_tokens"], "--max_new_tokens of `llm doctor` needs a value"),
        (["doctor", "a", "b"], "takes no further argument 'b'"),
        (["convert"], "needs SRC"),
        (["convert", "a", "b", "--to", "sepwieght"], 'Did you mean "sepweight"'),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    called: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert run(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("llm: error: ")
    assert said.err.count("\n") == 1
    assert words in said.err


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_anywhere_shows_the_traceback(capsys: pytest.CaptureFixture[str], place: int) -> None:
    argv = ["info", "no/such/model"]
    argv.insert(place, "--debug")
    assert run(argv) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert said.splitlines()[-1].startswith("llm: error: there is no model 'no/such/model'")


def test_debug_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_DEBUG", "1")
    assert run(["info", "no/such/model"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("top_p must be\nin (0, 1]"), 1, "top_p must be in (0, 1]"),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), 1, "cannot use '/x/y': no such file"),
        (OSError(28, "No space left on device"), 1, "free some space"),
        (MemoryError(), 1, "not enough memory"),
        (ModuleNotFoundError("No module named 'nothing'", name="nothing"), 1, "pip install nothing"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_of_commands_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    def doctor() -> None:
        raise error

    monkeypatch.setattr("llm_cli.commands.doctor.doctor", doctor)
    assert run(["doctor"]) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert words in said.err


def test_a_fault_is_one_sentence_that_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_cli.__main__ import tell_fault

    monkeypatch.setattr(sys, "argv", ["llm", "generate"])
    tell_fault(KeyError, KeyError("x"), None)
    said = capsys.readouterr().err
    assert (said.count("\n"), "please report it" in said, "Traceback" in said) == (1, True, False)


def test_a_closed_pipe_ends_quietly() -> None:
    code = (
        "import sys; import llm_cli.commands.doctor as module; module.doctor = lambda: sys.stdout.write('x' * 10**6);"
        "sys.argv = ['llm', 'doctor']; from llm_cli.__main__ import main; main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    assert run(["--install-completion", "--shell", shell, "--output", str(script)]) == 0
    text = script.read_text()
    assert all(name in text for name in COMMANDS)
    assert "tokenizer_only" in text


def test_every_command_reads_its_options_from_the_environment() -> None:
    """The function is inherited by subcommands; one that sets its own config would lose it."""
    app = build_app()
    assert all(app[name].config in (None, (), (from_environment,)) for name in COMMANDS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(("redirection", "code", "said"), [(">/dev/full", 1, 1), (">&-", 0, 0)])
def test_a_stdout_that_takes_nothing(redirection: str, code: int, said: int) -> None:
    """A full disk was told three times, once as a fault of ours; a closed stdout was an AttributeError."""
    command = f"{sys.executable} -m llm_cli download list {redirection}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, said), done.stderr
    assert "fault" not in done.stderr


def test_a_misspelt_variable_is_told_without_its_value(
    called: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was ignored without a word. Those of other commands and of other programs are none of it."""
    monkeypatch.setenv("LLM_TEMPRATURE", "a-secret")
    for name in ("LLM_TOKENIZER_DIR", "LLM_MIN_NEW_TOKENS", "LLM_MODEL", "LLM_TEST_DATA", "LLM_DEBUG"):
        monkeypatch.setenv(name, "0")
    assert run(["doctor"]) == 0
    said = capsys.readouterr().err
    assert (
        said == "warning: the environment variable LLM_TEMPRATURE means nothing here; did you mean LLM_TEMPERATURE?\n"
    )
    assert called[0]["temperature"] == 1.0
