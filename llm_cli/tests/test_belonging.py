"""System messages that a chat template writes for some texts or conversations alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_cli.belonging import encode, reads_system
from llm_cli.chat import ChatSession
from llm_cli.prompts import encode_prompt
from llm_tokenizer import Tokenizer, TokenizerError

Make = Callable[[str], Tokenizer]
LAST = "{{ messages[-1].content }}"
KNOWN = "{% if messages[0].content == 'detailed thinking on' %}<think>{% endif %}" + LAST
CONTAINS = "{% if '/no_think' in messages[0].content %}<quiet>{% endif %}" + LAST
LATE = "{% if messages|length > 3 %}{{ messages[0].content }}{% endif %}" + LAST
LETTERS = "{{ messages[0].content|trim|upper }}" + LAST
DEFAULT = "{% if messages[0].role != 'system' %}be brief{% endif %}" + LAST
FIRST = "{{ messages[0].content }}"
SHORT = "{% if messages[0].content|length > 9 %}{{ raise_exception('too long') }}{% endif %}" + FIRST + LAST
REFUSED = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + LAST
BROKEN = "{{ raise_exception('nothing pleases') }}"


@pytest.fixture
def templated(byte_tokenizer: Tokenizer, tmp_path: Path) -> Make:
    """The tokenizer of bytes with another chat template."""

    def make(template: str) -> Tokenizer:
        for file in byte_tokenizer.files:
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "chat_template.jinja").write_text(template)
        return Tokenizer.load(tmp_path)

    return make


def conversation(system: Any, turns: int = 1) -> list[dict[str, Any]]:
    said = [{"role": ("user", "assistant")[i % 2], "content": "hi"} for i in range(2 * turns - 1)]
    return [{"role": "system", "content": system}, *said]


@pytest.mark.parametrize(
    ("template", "system", "turns", "reads"),
    [
        (KNOWN, "detailed thinking on", 1, True),
        (KNOWN, "be kind", 1, False),
        (CONTAINS, "be kind /no_think", 1, True),
        (CONTAINS, "be kind", 1, False),
        (LATE, "be kind", 2, True),
        (LATE, "be kind", 1, False),
        (LETTERS, " A ", 1, True),
        (LETTERS, "", 1, True),
        (DEFAULT, "be kind", 1, True),  # the default isn't written, and that is what the message does
        (REFUSED, "be kind", 1, False),
        (SHORT, "be kind and brief", 1, True),  # the template says itself what it refuses of this one
        (BROKEN, "be kind", 1, True),  # no system message's fault
    ],
)
def test_a_system_message_is_judged_by_its_text_and_its_conversation(
    templated: Make, template: str, system: str, turns: int, reads: bool
):
    """Single letters and one question were rendered in their place, which few templates make anything of."""
    assert reads_system(templated(template), conversation(system, turns)) is reads


def test_a_text_in_parts_is_replaced_by_one_in_parts(templated: Make):
    template = "{% for part in messages[0].content %}{{ part.text }}{% endfor %}" + LAST
    assert reads_system(templated(template), conversation([{"type": "text", "text": "be kind"}]))


def test_prompts_are_encoded_where_the_system_message_is_read(templated: Make):
    tokenizer = templated(KNOWN)
    on = encode("hi", tokenizer, vocab_size=264, sys_prompt="detailed thinking on")
    assert tokenizer.decode(on) == "<think>hi"
    with pytest.raises(ValueError, match="no place for a system message"):
        encode("hi", tokenizer, vocab_size=264, sys_prompt="be kind")
    with pytest.raises(ValueError, match="no place for a system message"):
        encode(conversation("be kind"), tokenizer, vocab_size=264)
    with pytest.raises(ValueError, match="begin with a system message already"):
        encode(conversation("detailed thinking on"), tokenizer, vocab_size=264, sys_prompt="be brief")
    with pytest.raises(TokenizerError, match="too long"):
        encode("hi", templated(SHORT), vocab_size=264, sys_prompt="be kind and brief")


def test_a_conversation_takes_the_system_prompt_that_the_template_knows(templated: Make):
    class Loaded:
        tokenizer = templated(KNOWN)

    chat = ChatSession(Loaded(), sys_prompt="detailed thinking on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no place for a system message"):
        chat.set_system("be kind")
    assert chat.sys_prompt == "detailed thinking on"


def test_an_empty_list_is_no_prompt():
    with pytest.raises(ValueError, match="the prompt is an empty list; give a text, messages or ids"):
        encode_prompt([], None)
