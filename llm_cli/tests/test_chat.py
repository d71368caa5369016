"""A conversation without a terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cli import LLM
from llm_cli.chat import ChatSession

# Only letters come out, so that an answer is read back as the ids that were generated.
LETTERS = {i: 100.0 for i in range(264) if i >= 6 + 64 and i < 6 + 90}
SETTINGS: dict[str, Any] = {"temperature": 0, "max_new_tokens": 6, "logit_bias": LETTERS}


def session(llm: LLM, **options: Any) -> ChatSession:
    options["settings"] = SETTINGS | options.get("settings", {})
    return ChatSession(llm, **options)


def say(chat: ChatSession, text: str) -> str:
    return "".join(chat.ask(text))


def test_an_answer_is_that_of_the_whole_conversation(llm: LLM):
    chat = session(llm, sys_prompt="be kind")
    first = say(chat, "one")
    second = say(chat, "two")
    assert chat.messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": second},
    ]
    messages = [{"role": "system", "content": "be kind"}, *chat.messages[:3]]
    assert second == llm.generate(messages, **SETTINGS)


def test_a_second_turn_reads_only_what_is_new(llm: LLM):
    chat = session(llm)
    say(chat, "one")
    seen: list[int] = []
    hook = llm.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    say(chat, "two")
    hook.remove()
    # The last id of the answer was never read; then come the end of the turn and <|user|>two<|end|><|assistant|>.
    assert seen[0] == 1 + 1 + 1 + 3 + 1 + 1
    assert chat.last is not None
    assert chat.last.cached_tokens == chat.last.prompt_tokens - seen[0]


def test_a_base_model_continues_the_text(base_llm: LLM):
    chat = session(base_llm)
    first = say(chat, "once upon ")
    second = say(chat, " and then ")
    assert second == base_llm.generate(f"once upon {first} and then ", **SETTINGS)
    with pytest.raises(ValueError, match="chat template"):
        chat.set_system("be kind")


def test_the_oldest_turns_go_when_the_context_is_full(llm: LLM):
    notices: list[str] = []
    chat = session(llm, notice=notices.append)
    for _ in range(4):
        say(chat, "x" * 30)
    assert chat.last is not None
    assert chat.last.prompt_tokens + 6 <= 128
    assert len(chat.messages) == 8
    assert len(notices) >= 1
    assert all("128 tokens is full" in notice for notice in notices)


def test_a_question_longer_than_the_context_leaves_the_history_as_it_was(llm: LLM):
    chat = session(llm)
    say(chat, "one")
    before = list(chat.messages)
    with pytest.raises(ValueError, match="128"):
        chat.ask("x" * 200)
    assert chat.messages == before
    second = say(chat, "two")
    assert second == llm.generate([*before, {"role": "user", "content": "two"}], **SETTINGS)


def test_a_question_longer_than_the_context_does_not_hide_the_turns_before_it(llm: LLM):
    """All turns were left out to make room for it, and stayed left out after it had been refused."""
    notices: list[str] = []
    chat = session(llm, notice=notices.append)
    for text in ("one", "two"):
        say(chat, text)
    with pytest.raises(ValueError, match="128"):
        chat.ask("x" * 200)
    assert notices == []
    conversation = [*chat.messages, {"role": "user", "content": "three"}]
    assert say(chat, "three") == llm.generate(conversation, **SETTINGS)


def test_an_interrupted_answer_stays_as_far_as_it_came(llm: LLM):
    chat = session(llm)
    answer = chat.ask("one")
    came = next(answer) + next(answer)
    answer.close()  # type: ignore[attr-defined]
    assert chat.messages[-1] == {"role": "assistant", "content": came}
    assert chat.last is not None
    assert chat.last.finish_reason is None
    messages = [*chat.messages, {"role": "user", "content": "two"}]
    assert say(chat, "two") == llm.generate(messages, **SETTINGS)


def test_an_interruption_before_the_first_token_forgets_the_question(llm: LLM):
    chat = session(llm)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = llm.model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        say(chat, "one")
    hook.remove()
    assert chat.messages == []
    assert say(chat, "one") == llm.generate("one", **SETTINGS)


def test_an_answer_made_again_takes_the_place_of_the_last(llm: LLM):
    chat = session(llm, settings={"temperature": 2.0, "seed": 5, "max_new_tokens": 20})
    first = say(chat, "one")
    again = "".join(chat.regenerate())
    assert again != first
    assert [message["content"] for message in chat.messages] == ["one", again]
    with pytest.raises(ValueError, match="ask something"):
        session(llm).regenerate()


def test_an_answer_made_again_and_stopped_at_once_leaves_the_last_one(llm: LLM):
    """The question and its answer were gone when Ctrl-C came before the first token."""
    chat = session(llm)
    first = say(chat, "one")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = llm.model.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(chat.regenerate())
    hook.remove()
    assert [message["content"] for message in chat.messages] == ["one", first]


def test_an_answer_that_nobody_began_to_read_leaves_no_question_behind(llm: LLM):
    """A question alone stayed in the history, and templates that want turns to alternate refused every next one."""
    chat = session(llm)
    chat.ask("one").close()
    assert chat.messages == []


def test_a_base_model_with_sentencepiece_keeps_the_space_between_turns(stories: Path):
    """`Once upon a` and its answer were joined to `Once upon atime` for the next turn."""
    chat = ChatSession(LLM.load(stories), settings={"temperature": 0, "max_new_tokens": 1})
    assert say(chat, "Once upon a") == " time"


def test_a_seed_repeats_a_conversation(llm: LLM):
    settings = {"temperature": 2.0, "seed": 5}
    talks = []
    for _ in range(2):
        chat = session(llm, settings=settings)
        talks.append([say(chat, "one"), say(chat, "two")])
    assert talks[0] == talks[1]


def test_clear_forgets_the_turns_but_not_the_system_prompt(llm: LLM):
    chat = session(llm, sys_prompt="be kind")
    say(chat, "one")
    chat.clear()
    assert chat.messages == []
    assert say(chat, "two") == llm.generate("two", sys_prompt="be kind", **SETTINGS)


def test_settings_are_parsed_checked_and_used(llm: LLM):
    chat = session(llm)
    assert chat.set("max_new_tokens", "3") == 3
    assert len(say(chat, "one")) == 3
    assert chat.set("max_new_tokens", "none") is None
    assert "max_new_tokens" not in chat.settings


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("temprature", "1", "did you mean temperature"),
        ("temperature", "warm", "number.*warm"),
        ("top_k", "1.5", "whole number.*1.5"),
        ("temperature", "-1", "temperature.*-1"),
        ("colour", "1", "there are"),
    ],
)
def test_a_wrong_setting_changes_nothing(llm: LLM, key: str, value: str, words: str):
    chat = session(llm)
    before = dict(chat.settings)
    with pytest.raises(ValueError, match=words):
        chat.set(key, value)
    assert chat.settings == before


def test_save_writes_the_whole_conversation_and_overwrites_nothing(llm: LLM, tmp_path: Path):
    chat = ChatSession(llm, sys_prompt="be kind", settings={"temperature": 0, "max_new_tokens": 3})
    answer = say(chat, "öne")
    target = chat.save(tmp_path / "talk.json")
    assert json.loads(target.read_text(encoding="utf-8")) == {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "öne"},
            {"role": "assistant", "content": answer},
        ],
        "settings": {"temperature": 0, "max_new_tokens": 3},
    }
    with pytest.raises(ValueError, match="exists"):
        chat.save(target)


def test_save_to_a_place_that_cannot_be_written_is_a_sentence(
    llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The error of the system ended the program, and with it the conversation that was to be saved."""
    monkeypatch.chdir(tmp_path)
    for name in ("absent/talk.json", "~no-such-user/talk.json", "x" * 300):
        with pytest.raises(ValueError, match="give another path"):
            session(llm).save(name)
    assert list(tmp_path.iterdir()) == []
