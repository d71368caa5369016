"""Bad input from the shell: one sentence on stderr, the designed exit code, nothing on stdout and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_cli.app import run


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def change_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 5)
    save_file(weights, folder / "model.safetensors")


def put_payload(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Payload()}, folder / "pytorch_model.bin")


def change_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llamma"}))


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


DAMAGES: dict[Callable[[Path], None], str] = {
    truncate: "model.safetensors",
    change_shape: "mid.1.mlp.up.weight",
    put_payload: "pytorch_model.bin",
    change_type: "did you mean 'llama'",
    break_config: "config.json",
    remove_weights: "model",
    remove_tokenizer: "no tokenizer",
}


@pytest.fixture
def folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good checkpoint that a test may damage, in an otherwise empty current directory."""
    monkeypatch.setattr("llm_cli.clash.other_command", lambda: None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path(shutil.copytree(base, tmp_path / "model"))


def refused(capsys: pytest.CaptureFixture[str], argv: list[str], codes: tuple[int, ...], words: str) -> None:
    assert run(argv) in codes
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said.err
    assert said.err.startswith("llm: error: ")
    assert words in said.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_generate_from_a_damaged_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(folder)
    refused(capsys, ["generate", str(folder), "--prompt", "hi"], (1,), DAMAGES[damage])


@pytest.mark.parametrize(
    ("options", "codes", "words"),
    [
        (["--temperature", "-1"], (2,), "temperature must be"),
        (["--temperature", "nan"], (2,), "temperature must be"),
        (["--top_p", "2"], (2,), "top_p must be"),
        (["--max_new_tokens", "0"], (2,), "max_new_tokens must be"),
        (["--prompt", "x" * 5000], (1,), "128"),
        (["--prompt_ids", "1,99999"], (1,), "knows the ids 0 to 263"),
        (["--prompt_ids", "1,x"], (2,), "--prompt_ids takes numbers"),
        (["--temprature", "1"], (2,), "did you mean --temperature?"),
        (["--max_new_tokens", "many"], (2,), 'unable to convert "many"'),
        (["--precision", "fp7"], (2,), '"fp7" for --precision'),
    ],
)
def test_generate_with_a_wrong_option(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], codes: tuple[int, ...], words: str
) -> None:
    refused(capsys, ["generate", str(folder), *options], codes, words)


PYTHON = re.compile(r"\b\w+=(\w|'|\"|,|;|\s|$)|\.\w+\(\)")  # as in raw=True, tokenizer_dir= and .distribute()


@pytest.mark.parametrize(
    ("damage", "argv", "words"),
    [
        (remove_tokenizer, ["generate", "MODEL", "--prompt", "hi"], "--tokenizer_dir, or give ids with --prompt_ids"),
        (remove_tokenizer, ["generate", "MODEL", "--prompt_ids", "7"], "--json"),
        (remove_tokenizer, ["generate", "MODEL", "--prompt", "hi", "--json"], "name one with --tokenizer_dir"),
        (remove_tokenizer, ["chat", "MODEL"], "name one with --tokenizer_dir"),
        (None, ["generate", "MODEL", "--raw", "--sys_prompt", "x"], "--raw leaves out the chat template"),
        (None, ["generate", "MODEL", "--sys_prompt", "x"], "sys_prompt needs a chat template"),
        (None, ["generate", "MODEL", "--prompt_ids", "7", "--sys_prompt", "x"], "sys_prompt needs a text"),
        (None, ["generate", "MODEL", "--logprobs", "2"], "add --json"),
        (None, ["chat", "MODEL", "--sys_prompt", "x"], "a system prompt needs a chat template"),
        (change_type, ["generate", "MODEL"], "did you mean 'llama'"),
    ],
)
def test_errors_are_told_in_the_spelling_of_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None] | None, argv: list[str], words: str
) -> None:
    """`tokenizer_dir=` and `raw=True` are no help to whoever typed a command."""
    if damage is not None:
        damage(folder)
    assert run([str(folder) if word == "MODEL" else word for word in argv]) in (1, 2)
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said.err
    assert words in said.err
    assert not PYTHON.search(said.err), said.err


def test_a_tokenizer_from_elsewhere(folder: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove_tokenizer(folder)
    argv = ["--prompt", "hi", "--temperature", "0", "--max_new_tokens", "4"]
    assert run(["generate", str(folder), "--tokenizer_dir", str(base), *argv]) == 0
    found = capsys.readouterr().out
    assert run(["generate", str(base), *argv]) == 0
    assert capsys.readouterr().out == found


@pytest.mark.parametrize("command", ["generate", "chat", "info"])
def test_a_missing_model(folder: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    refused(capsys, [command, "no-such-model"], (1,), "there is no model 'no-such-model'")


def test_a_real_shell_sees_the_sentence_and_the_code(folder: Path) -> None:
    truncate(folder)
    command = [sys.executable, "-m", "llm_cli", "generate", str(folder), "--prompt", "hi"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    assert "model.safetensors: truncated" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_claim_of_countless_layers_builds_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A config.json with 2**27 layers made a module for each of them until the memory was gone."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2**27}))
    refused(capsys, ["info", str(folder)], (1,), "config.json: a model of 134217728 layers is not supported")


@pytest.mark.parametrize("command", ["convert", "export"])
def test_what_is_no_checkpoint_is_named_as_what_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A GGUF file was "no checkpoint by itself, as a llama2.c .bin file is"."""
    file = folder.parent / "tiny.gguf"
    file.touch()
    argv = ["convert", str(file), "x"] if command == "convert" else ["export", "hf", str(file), "--out", "x"]
    refused(capsys, argv, (1,), "tiny.gguf: GGUF files aren't read; give a folder in Hugging Face's form")
