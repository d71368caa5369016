"""Turn what a caller asks with (text, messages, ids, or a list of these) into ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_tokenizer import Tokenizer

Message = dict[str, Any]
Prompt = str | list[Message] | list[int]
Prompts = list[str] | list[list[Message]] | list[list[int]]


def as_list(prompt: Prompt | Prompts) -> tuple[list[Prompt], bool]:
    """The prompts one by one, and whether the caller gave several (a list of texts, conversations or id lists).

    Raises ValueError for an empty list and for anything else that is no prompt.
    """
    if isinstance(prompt, str):
        return [prompt], False
    if not isinstance(prompt, Sequence) or not prompt:
        given = "an empty list" if prompt == [] else f"a {type(prompt).__name__}"
        raise ValueError(f"a prompt is a text, a list of messages, a list of ids or a list of prompts, not {given}")
    if all(isinstance(item, Mapping) for item in prompt) or all(_is_id(item) for item in prompt):
        return [list(prompt)], False  # type: ignore[list-item]
    if all(isinstance(item, str) for item in prompt):
        return list(prompt), True  # type: ignore[arg-type]
    if all(isinstance(item, Sequence) and not isinstance(item, str) for item in prompt):
        several = [as_list(item) for item in prompt]  # type: ignore[arg-type]
        if not any(nested for _, nested in several):
            return [one[0] for one, _ in several], True
    raise ValueError("a list of prompts holds only texts, only conversations (lists of messages) or only lists of ids")


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer | None, *, sys_prompt: str | None = None, raw: bool = False
) -> list[int]:
    """The ids of one prompt: a text goes through the checkpoint's chat template, unless it has none or `raw` is set.

    Raises ValueError for an empty list, for a text without a tokenizer, and for messages or a system prompt without a
    chat template.
    """
    if not isinstance(prompt, str) and not prompt:
        raise ValueError("the prompt is an empty list; give a text, messages or ids")
    if not isinstance(prompt, str) and _is_id(prompt[0]):
        if sys_prompt is not None:
            raise ValueError("sys_prompt needs a text or messages as the prompt; ids go to the model as they are")
        return list(prompt)  # type: ignore[arg-type]
    if tokenizer is None:
        raise ValueError("this checkpoint has no tokenizer; give the prompt as ids, or load with tokenizer_dir=")
    templated = tokenizer.chat_template is not None and not raw
    if isinstance(prompt, str) and not templated:
        if sys_prompt is not None:
            why = "raw=True leaves the chat template out" if raw else "this checkpoint has none"
            raise ValueError(f"sys_prompt needs a chat template, and {why}; write it into the prompt")
        return tokenizer.encode(prompt)
    if not templated:
        why = "raw=True leaves it out" if raw else "this checkpoint has none"
        raise ValueError(f"a list of messages needs a chat template, and {why}; give the prompt as one text")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return tokenizer.encode_chat(_with_system(messages, sys_prompt))  # type: ignore[arg-type]


def is_continued(prompt: Prompt, tokenizer: Tokenizer | None, *, raw: bool = False) -> bool:
    """Whether the prompt is a text that the answer goes on with, rather than a turn that it replies to, or ids."""
    return isinstance(prompt, str) and (raw or tokenizer is None or tokenizer.chat_template is None)


def _with_system(messages: list[Message], sys_prompt: str | None) -> list[Message]:
    if sys_prompt is None:
        return messages
    if any(message.get("role") == "system" for message in messages):
        raise ValueError("the messages begin with a system message already; leave out sys_prompt or that message")
    return [{"role": "system", "content": sys_prompt}, *messages]


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
