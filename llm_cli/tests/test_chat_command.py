"""`llm chat` in front of a person or a pipe: lines, slash commands, interruptions."""

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_cli import LLM
from llm_cli.app import run
from llm_cli.chat import ChatSession
from llm_cli.commands.chat import talk
from llm_cli.slash import COMMANDS, respond


class Stub:
    """Stands in for a session: echoes, or is interrupted."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        last = {"token_ids": (1,), "tokens_per_second": None, "finish_reason": "stop", "passes": 0}
        self.last: Any = type("Last", (), last)

    def ask(self, text: str) -> Iterator[str]:
        self.asked.append(text)
        return self._answer(text)

    def _answer(self, text: str) -> Iterator[str]:
        yield "you said "
        if text == "interrupt me":
            raise KeyboardInterrupt
        yield text


def reader(lines: Iterable[str | type[BaseException]]) -> Callable[[str], str]:
    """Gives the lines one by one, raises those that are exceptions, and EOFError after the last."""
    left = iter(lines)

    def read(_prompt: str) -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def talked(*lines: str | type[BaseException], multiline: bool = False, typed: bool = False) -> Stub:
    stub = Stub()
    talk(stub, reader(lines), multiline=multiline, typed=typed)  # type: ignore[arg-type]
    return stub


def test_answers_go_to_stdout_alone(capsys: pytest.CaptureFixture[str]):
    talked("hello", "", "  ", "bye")
    captured = capsys.readouterr()
    assert captured.out == "you said hello\nyou said bye\n"
    assert "1 tokens" in captured.err


@pytest.mark.parametrize("leave", ["/exit", "!exit", "!quit", EOFError])
def test_ways_to_leave(leave: str | type[BaseException]):
    assert talked("hello", leave, "more").asked == ["hello"]


def test_interrupting_an_answer_stops_it_and_not_the_program(capsys: pytest.CaptureFixture[str]):
    assert talked("interrupt me", "go on").asked == ["interrupt me", "go on"]
    assert capsys.readouterr().out == "you said \nyou said go on\n"


def test_interrupting_every_answer_stops_answers_alone():
    """Ctrl-C in two answers one after the other ended the program, though a line had been typed in between."""
    interrupted = ["interrupt me"] * 3
    assert talked(*interrupted, "go on", typed=True).asked == [*interrupted, "go on"]
    assert talked("interrupt me", KeyboardInterrupt, "more", typed=True).asked == ["interrupt me", "more"]
    assert talked(*interrupted, "go on").asked == interrupted[:2]  # from a pipe nothing else would end it


def test_an_answer_interrupted_while_it_is_written_is_noted_before_the_next_question(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
):
    """The stopped answer entered the history after the question that followed it."""
    chat = ChatSession(llm, settings={"temperature": 0, "max_new_tokens": 4})
    written: list[str] = []

    def write(text: str) -> None:
        written.append(text)
        if len(written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("llm_cli.commands.chat.write_text", write)
    talk(chat, reader(["one", "two"]))
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert [message["content"] for message in chat.messages[::2]] == ["one", "two"]


def test_interrupting_twice_in_a_row_leaves():
    assert talked(KeyboardInterrupt, "one", KeyboardInterrupt, "two").asked == ["one", "two"]
    assert talked(KeyboardInterrupt, KeyboardInterrupt, "more").asked == []


def test_lines_are_joined_up_to_an_empty_one_or_submit():
    stub = talked("one", "two", "", "three", "!submit", "/exit", multiline=True)
    assert stub.asked == ["one\ntwo", "three"]
    assert talked("last", "words", multiline=True).asked == ["last\nwords"]


def test_an_error_is_told_and_the_talk_goes_on(capsys: pytest.CaptureFixture[str]):
    assert talked("/hlep", "hello").asked == ["hello"]
    assert "did you mean /help" in capsys.readouterr().err


def test_a_space_in_front_sends_a_slash_to_the_model():
    assert talked(" /etc/passwd is a file").asked == [" /etc/passwd is a file"]


def test_slash_commands_change_the_session(llm: LLM, tmp_path: Path):
    chat = ChatSession(llm, settings={"max_new_tokens": 4, "temperature": 0})
    assert all(command.usage in respond(chat, "/help").notice for command in COMMANDS.values())
    respond(chat, "/system be kind")
    assert chat.sys_prompt == "be kind"
    assert respond(chat, "/system").notice == "be kind"
    respond(chat, "/set max_new_tokens 2")
    assert "max_new_tokens = 2" in respond(chat, "/set").notice
    answer = respond(chat, "hello").answer
    assert answer is not None
    first = "".join(answer)
    again = respond(chat, "/regen").answer
    assert again is not None
    assert "".join(again) == first
    respond(chat, f"/save {tmp_path / 'talk.json'}")
    assert len(json.loads((tmp_path / "talk.json").read_text())["messages"]) == 3
    respond(chat, "/clear")
    assert chat.messages == []
    respond(chat, "/system none")
    assert chat.sys_prompt is None


@pytest.mark.parametrize(("line", "words"), [("/set temperature", "no value"), ("/save", "file name"), ("/", "/help")])
def test_a_slash_command_that_lacks_something_says_so(llm: LLM, line: str, words: str):
    with pytest.raises(ValueError, match=words):
        respond(ChatSession(llm), line)


def test_the_command_answers_a_pipe(
    instruct: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n/set max_new_tokens 3\n/clear\nhello\n"))
    assert run(["chat", str(instruct), "--precision", "32-true", "--temperature", "0", "--max_new_tokens", "5"]) == 0
    expected = [llm.generate("hello", temperature=0, max_new_tokens=count) for count in (5, 3)]
    assert capsys.readouterr().out == "".join(text + "\n" for text in expected)


@pytest.mark.parametrize(("budget", "words"), [(500, "the full context ended it"), (3, "max_new_tokens ended it")])
def test_what_cut_an_answer_short_is_told(llm: LLM, capsys: pytest.CaptureFixture[str], budget: int, words: str):
    """It was said to be one or the other."""
    settings = {"max_new_tokens": budget, "temperature": 0, "ignore_eos": True}
    talk(ChatSession(llm, settings=settings), reader(["hello"]))
    assert words in capsys.readouterr().err


def test_a_system_prompt_needs_no_empty_question(
    make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """One was rendered before the first line was read, which some templates refuse."""
    folder = make_checkpoint()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content or raise_exception('empty') }}{% endfor %}"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert run(["chat", str(folder), "--sys_prompt", "be kind", "--max_new_tokens", "2"]) == 0
    assert "empty" not in capsys.readouterr().err


def test_a_system_prompt_that_the_template_leaves_out_is_refused(
    make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = make_checkpoint()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert run(["chat", str(folder), "--sys_prompt", "be kind"]) == 1
    assert "no place for a system message" in capsys.readouterr().err


def test_speculation_is_reported_behind_an_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    answers = []
    for flags in ([], ["--speculative", "ngram"], ["--draft_model", "demo"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nWho are you?\n"))
        assert run(["chat", "demo", "--precision", "32-true", "--seed", "1", *flags]) == 0
        captured = capsys.readouterr()
        answers.append(captured.out)
        assert ("tokens a pass" in captured.err or "nothing was proposed" in captured.err) == bool(flags)
    assert answers[0] == answers[1] == answers[2]
