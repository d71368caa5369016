"""`--prompt_cache FILE`: from one process to the next, and files that are in the way."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cli.app import run
from llm_cli.reading import PromptCache

STORY = "Once upon a time there was a little bear who lived in the forest. " * 12
GREEDY = ["--temperature", "0", "--max_new_tokens", "20"]


@pytest.fixture
def generate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs the command in this process; stdout and stderr."""

    def generate(*arguments: object, code: int = 0) -> tuple[str, str]:
        assert run(["generate", *GREEDY, *map(str, arguments)]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return generate


def elsewhere(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "llm_cli", "generate", *GREEDY, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_process_reads_nothing_again(generate: Any, tmp_path: Path) -> None:
    options = ["--prompt", STORY, "--prompt_cache", tmp_path / "bear"]
    first, second = elsewhere(*options), elsewhere(*options)
    assert first.stdout == second.stdout == generate("--prompt", STORY)[0]
    assert "prompt of 195 tokens, 0 of them from the prompt cache" in first.stderr
    assert "prompt of 195 tokens, 195 of them from the prompt cache" in second.stderr
    longer = ["--prompt", STORY + "One day", "--json"]
    warm, plain = (json.loads(generate(*longer, *more)[0]) for more in (options[2:], []))
    assert warm["token_ids"] == plain["token_ids"]
    assert (warm["cached_tokens"], plain["cached_tokens"]) == (128, 0)
    assert left(tmp_path) == ["bear"]


@pytest.mark.parametrize("more", [["--precision", "32-true"], ["--quantize", "int8"], ["--speculative", "ngram"]])
def test_the_text_is_that_without_a_file(more: list[str], generate: Any, tmp_path: Path) -> None:
    for prompt in (STORY, STORY + "One day", "Hello!", STORY[:300]):
        expected = generate("--prompt", prompt, *more)[0]
        for _ in range(2):
            assert generate("--prompt", prompt, "--prompt_cache", tmp_path / "file", *more)[0] == expected


def test_the_file_holds_the_last_prompt(generate: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"

    def reused(prompt: str) -> tuple[int, bool]:
        before = file.stat() if file.exists() else None
        out, _ = generate("--prompt", prompt, "--raw", "--prompt_cache", file, "--json")
        after = file.stat()
        return json.loads(out)["cached_tokens"], before is None or before.st_ino != after.st_ino

    story = STORY.rstrip()
    assert reused(story) == (0, True)
    assert reused(story) == (192, False)
    assert reused(story + " The bear had a boat." * 20) == (128, True)
    assert reused(story) == (128, False)  # the file begins with it
    assert reused(STORY[:66] + "It was a bear. " * 30) == (0, True)
    assert left(tmp_path) == ["file"]


def test_another_text_in_the_file_is_told(generate: Any, tmp_path: Path) -> None:
    for prompt, told in ((STORY, False), (STORY + "!", False), ("What colour is the sky?", True)):
        _, err = generate("--prompt", prompt, "--prompt_cache", tmp_path / "file")
        assert ("held another text, which this one replaces" in err) == told


def test_samples_share_the_file(generate: Any, tmp_path: Path) -> None:
    options = ["--prompt", STORY, "--num_samples", 3, "--seed", 5, "--temperature", 0.8, "--json"]
    out = [generate(*options, "--prompt_cache", tmp_path / "file")[0] for _ in range(2)]
    samples = [[json.loads(line) for line in each.splitlines()] for each in out]
    assert [one["token_ids"] for one in samples[0]] == [one["token_ids"] for one in samples[1]]
    assert [[one["cached_tokens"] for one in each] for each in samples] == [[0] * 3, [195] * 3]


def test_a_file_for_reading_alone_stays_as_it_is(generate: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    generate("--prompt", STORY, "--prompt_cache", file)
    before = file.read_bytes()
    _, err = generate("--prompt", STORY + "One day", "--prompt_cache", file, "--prompt_cache_ro")
    assert "128 of them from the prompt cache" in err
    assert file.read_bytes() == before
    _, err = generate("--prompt_cache", tmp_path / "none", "--prompt_cache_ro", code=1)
    assert "finds no file" in err
    _, err = generate("--prompt_cache_ro", code=2)
    assert "goes with --prompt_cache FILE" in err


@pytest.mark.parametrize("more", [["--precision", "32-true"], ["--quantize", "int8"]])
def test_a_file_of_another_precision_is_refused_and_kept(more: list[str], generate: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    generate("--prompt", STORY, "--prompt_cache", file, "--precision", "bf16-true")
    before = file.read_bytes()
    out, err = generate("--prompt", STORY, "--prompt_cache", file, *more, code=1)
    assert out == ""
    assert "in another precision or quantization; give the file another name, or remove it" in err
    assert len(err.splitlines()) == 1
    assert file.read_bytes() == before


def test_what_is_no_prompt_cache_is_refused_before_the_model_is_read(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is still there afterwards: a slip in a path must not cost a file."""
    monkeypatch.setattr("llm_cli.llm.LLM.load", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "notes.txt").write_text("Remember the milk, and a lot more than eight bytes.")
    (tmp_path / "cut").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (tmp_path / "folder").mkdir()
    places = {"notes.txt": "no safetensors file", "cut": "truncated", "folder": "is a directory"}
    for name, words in places.items():
        _, err = generate("--prompt_cache", tmp_path / name, code=1)
        assert words in err.lower()
        assert name in err
    _, err = generate("--prompt_cache", tmp_path / "nowhere" / "file", code=1)
    assert "there is no folder" in err
    assert left(tmp_path) == ["cut", "folder", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text().startswith("Remember the milk")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_told_first(generate: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _, err = generate("--prompt_cache", tmp_path / "file", code=1)
    assert "permission denied" in err


def test_a_full_disk_costs_the_file_and_not_the_text(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate("--prompt", STORY)[0]
    monkeypatch.setattr("os.fsync", no_space)
    out, err = generate("--prompt", STORY, "--prompt_cache", tmp_path / "file")
    assert out == expected
    assert "the prompt was not kept: cannot read or write: no space left on device; free some space" in err
    assert left(tmp_path) == []


def no_space(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_an_interrupted_answer_has_kept_its_prompt(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("llm_cli.completion.Row.push", interrupted_at(4))
        generate("--prompt", STORY, "--prompt_cache", tmp_path / "file", code=130)
    assert left(tmp_path) == ["file"]
    assert "195 of them from" in generate("--prompt", STORY, "--prompt_cache", tmp_path / "file")[1]


def test_an_interruption_while_the_file_is_written_leaves_the_old_one(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    generate("--prompt", "Hello!", "--prompt_cache", file)
    before = file.read_bytes()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    generate("--prompt", STORY, "--prompt_cache", file, code=130)
    assert left(tmp_path) == ["file"]
    assert file.read_bytes() == before


def interrupted_at(number: int) -> Any:
    from llm_cli.completion import Row

    push, calls = Row.push, []

    def interrupted(*arguments: Any) -> str:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return push(*arguments)

    return interrupted


def test_a_file_from_another_machine_is_used_and_told(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("llm_cli.prompt_file.surroundings", lambda _: {"torch": "1.0", "device": "cuda"})
        generate("--prompt", STORY, "--prompt_cache", tmp_path / "file")
    _, err = generate("--prompt", STORY, "--prompt_cache", tmp_path / "file")
    assert "made elsewhere (torch 1.0, here 2." in err
    assert "195 of them from the prompt cache" in err


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Runs `llm chat` on lines from a pipe; stdout."""

    def chat(lines: list[str], *arguments: object) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        assert run(["chat", "--temperature", "0", "--max_new_tokens", "20", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return chat


def test_a_chat_begins_with_the_system_prompt_of_the_file(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds is the first prompt, and from then on the conversation goes on as without a file."""
    known: list[int] = []
    read = PromptCache.read

    def noted(self: PromptCache, *arguments: Any) -> Any:
        result = read(self, *arguments)
        known.append(result[1])
        return result

    monkeypatch.setattr(PromptCache, "read", noted)
    system, file = "You are a bear. " + STORY[:500], tmp_path / "file"
    for lines in (["Hello!", "Who are you?", "What do you eat?"], ["What colour is the sky?", "And the sea?"]):
        known.clear()
        plain = chat(lines, "--sys_prompt", system)
        without = list(known)
        known.clear()
        assert chat(lines, "--sys_prompt", system, "--prompt_cache", file) == plain
        assert known[1:] == without[1:]
        last = known[0]
    assert last == 128
