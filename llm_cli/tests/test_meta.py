"""Meta's folders (params.json beside consolidated.*.pth) are used in place, like any other checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_cli import LLM
from llm_cli.app import run
from llm_tokenizer import TokenizerError

TIKTOKEN = b"aGVsbG8= 0\nd29ybGQ= 1\n"
IDS = torch.arange(3, 40)[None]


@pytest.fixture
def meta(base: Path, as_meta: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama with random weights in two shards, with the tokenizer of bytes in a folder beside it."""
    monkeypatch.setattr("llm_cli.clash.other_command", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    shutil.copyfile(base / "tokenizer.json", tmp_path / "tokenizer" / "tokenizer.json")
    shutil.copyfile(base / "tokenizer_config.json", tmp_path / "tokenizer" / "tokenizer_config.json")
    return as_meta(base, tmp_path / "meta")


def test_a_folder_is_the_same_model(meta: Path, base: Path) -> None:
    llm = LLM.load(meta, tokenizer_dir="tokenizer")
    wanted = LLM.load(base)
    assert llm.config == wanted.config
    assert torch.equal(llm(IDS), wanted(IDS))
    options = {"max_new_tokens": 8, "temperature": 0}
    assert llm.generate("hello", **options) == wanted.generate("hello", **options)


def test_its_own_dtype_and_one_asked_for(base: Path, as_meta: Callable[..., Path], tmp_path: Path) -> None:
    folder = as_meta(base, tmp_path / "half", dtype=torch.bfloat16)
    llm = LLM.load(folder, distribute=None)
    with pytest.raises(ValueError, match="not loaded yet"):
        _ = llm.model
    llm.distribute(accelerator="cpu", precision="32-true")
    wanted = LLM.load(base).model.state_dict()
    assert all(torch.equal(p, wanted[name].bfloat16().float()) for name, p in llm.model.state_dict().items())


def test_the_trained_model_goes_on_as_recorded(
    stories: Path, as_meta: Callable[..., Path], greedy_ids: list[int], tmp_path: Path, capsys: Any
) -> None:
    """With its sentencepiece tokenizer beside the weights, and nothing that Hugging Face adds."""
    folder = as_meta(stories, tmp_path / "stories", shards=1)
    shutil.copyfile(stories / "tokenizer.model", folder / "tokenizer.model")
    argv = ["generate", str(folder), "--temperature", "0", "--max_new_tokens", "60", "--precision", "32-true"]
    assert run([*argv, "--prompt", "", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == greedy_ids[:60]
    llm = LLM.load(folder)
    assert llm.tokenizer.end_ids == (2,)
    assert llm.generate("Once upon a", temperature=0, max_new_tokens=10).startswith(" time, ")


def test_it_is_found_by_name_and_described(
    base: Path, as_meta: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "meta-llama").mkdir(parents=True)
    folder = as_meta(base, tmp_path / "checkpoints" / "meta-llama" / "Tiny", dtype=torch.bfloat16)
    (folder / "tokenizer.model").write_bytes(TIKTOKEN)
    assert run(["info", "meta-llama/Tiny", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["layout"], found["architecture"], found["files"]) == ("meta", "llama", 2)
    assert found["dtypes"] == ["bfloat16"]
    assert found["bytes"] == sum(file.stat().st_size for file in folder.glob("*.pth"))
    assert "tiktoken" in found["tokenizer"]["problem"]


def test_a_tokenizer_that_cannot_be_read_says_what_to_do(meta: Path, capsys: Any) -> None:
    """Llama 3 comes with a tiktoken file."""
    (meta / "tokenizer.model").write_bytes(TIKTOKEN)
    with pytest.raises(TokenizerError, match=r"tiktoken .* Put the tokenizer\.json .* or .* as tokenizer_dir\."):
        LLM.load(meta)
    assert run(["generate", "meta", "--prompt", "hello"]) == 1
    assert "Put the tokenizer.json of the model's Hugging Face repository into 'meta'" in capsys.readouterr().err
    argv = ["--prompt", "hello", "--temperature", "0", "--max_new_tokens", "4"]
    assert run(["generate", "meta", "--tokenizer_dir", "tokenizer", *argv]) == 0
    first = capsys.readouterr().out
    shutil.copyfile("tokenizer/tokenizer.json", meta / "tokenizer.json")
    shutil.copyfile("tokenizer/tokenizer_config.json", meta / "tokenizer_config.json")
    assert run(["generate", "meta", *argv]) == 0
    assert capsys.readouterr().out == first


def test_ids_need_no_tokenizer(meta: Path, base: Path, capsys: Any) -> None:
    argv = ["--prompt_ids", "7,8,9", "--temperature", "0", "--max_new_tokens", "5", "--json", "--ignore_eos"]
    assert run(["generate", str(meta), *argv]) == 0
    found = json.loads(capsys.readouterr().out)["token_ids"]
    assert run(["generate", str(base), *argv]) == 0
    assert found == json.loads(capsys.readouterr().out)["token_ids"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "params.json").unlink(), "without their params.json"),
        (lambda folder: (folder / "consolidated.00.pth").unlink(), "consolidated.00.pth: missing"),
        (lambda folder: (folder / "params.json").write_text("{"), "params.json: not valid JSON"),
        (lambda folder: (folder / "params.json").write_text('{"dim": 32}'), "lacks the key 'n_heads'"),
        (lambda folder: (folder / "consolidated.01.pth").write_bytes(b"PK\x03\x04"), "consolidated.01.pth"),
    ],
    ids=["no params", "a shard is missing", "broken params", "incomplete params", "broken shard"],
)
@pytest.mark.parametrize("command", ["generate", "info"])
def test_a_damaged_folder_is_one_sentence(
    meta: Path, capsys: Any, damage: Callable[[Path], None], words: str, command: str
) -> None:
    damage(meta)
    assert run([command, "meta"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said.err
    assert words in said.err
