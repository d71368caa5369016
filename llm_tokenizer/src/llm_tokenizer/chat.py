"""The chat templates of a checkpoint folder, and messages made ready for them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import MAX_TEMPLATE_BYTES, TEMPLATE_FOLDERS, read_json_if_any, read_text
from llm_tokenizer.sandbox import ChatTemplate

MAX_DEPTH = 100
# Names that a message's reasoning goes by; templates read the first, some the second.
REASONING = ("reasoning_content", "thinking", "reasoning")


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name ("default", "tool_use", ...). Raises TokenizerError.

    chat_template.jinja and the folder of additional ones, else chat_template.json, else tokenizer_config.json.
    """
    jinja = folder / "chat_template.jinja"
    paths = {path.stem: path for name in TEMPLATE_FOLDERS for path in sorted((folder / name).glob("*.jinja"))}
    if jinja.is_file():
        paths["default"] = jinja
    if paths:
        return {name: read_text(path, MAX_TEMPLATE_BYTES) for name, path in paths.items()}
    stated = read_json_if_any(folder / "chat_template.json").get("chat_template")
    if stated is not None:
        return _named(stated, folder / "chat_template.json")
    return _named(config.get("chat_template"), folder / "tokenizer_config.json")


def _named(value: object, source: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in (*value, *value.values())):
        raise TokenizerError(f"{source}: chat_template must be a string or a list of {{name, template}} objects.")
    return value


class Chat:
    """The folder's templates, each compiled when it is first used."""

    def __init__(self, templates: Mapping[str, str], names: Mapping[str, str], source: Path) -> None:
        self._templates = dict(templates)
        self._names = dict(names)
        self._source = source
        self._compiled: dict[str, ChatTemplate] = {}

    def pick(self, tools: bool) -> str | None:
        """The name of the template to use, None where there is none. Raises TokenizerError for no clear choice."""
        if tools and "tool_use" in self._templates:
            return "tool_use"
        if "default" in self._templates or not self._templates:
            return "default" if self._templates else None
        raise TokenizerError(f"{self._source}: one of {', '.join(sorted(self._templates))} must be `default`.")

    def text(self, tools: bool = False) -> str | None:
        """The template's source."""
        name = self.pick(tools)
        return None if name is None else self._templates[name]

    def render(
        self,
        messages: Iterable[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        """The conversation as text. Raises TokenizerError for bad messages and for what the template refuses."""
        name = self.pick(tools is not None)
        if name is None:
            raise TokenizerError(f"{self._source}: there is no chat template here; write the prompt as plain text.")
        if name not in self._compiled:
            self._compiled[name] = ChatTemplate(self._templates[name], f"{self._source} ({name})")
        given = {
            "documents": None,
            **self._names,
            **variables,
            "messages": prepare(messages, keep_none=_tests_for_none(self._templates[name])),
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._compiled[name].render({key: plain(value, key) for key, value in given.items()})


def _tests_for_none(template: str) -> bool:
    """Whether the template asks if a message's content is none: then a None content means something to it."""
    return bool(re.search(r"content(['\"]\])?\s+is\s+(not\s+)?none", template, re.IGNORECASE))


def prepare(messages: Iterable[Mapping[str, Any]], *, keep_none: bool = False) -> list[dict[str, Any]]:
    """The messages as transformers hands them to a template: without None values, reasoning under each of its names.

    keep_none keeps `content: None`. Raises TokenizerError for an empty conversation or a message without a role.
    """
    if isinstance(messages, str | Mapping):
        raise TokenizerError("messages must be a list of objects with a role; put a single message into a list.")
    prepared = [_message(message, keep_none) for message in messages]
    if not prepared:
        raise TokenizerError("A conversation has at least one message, this one is empty.")
    return prepared


def _message(message: object, keep_none: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise TokenizerError(f"A message must be an object with a string `role`, this one is {str(message)[:80]!r}.")
    kept = {key: value for key, value in message.items() if value is not None or (keep_none and key == "content")}
    reasoning = next((kept[key] for key in REASONING if key in kept), None)
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def plain(value: Any, name: str, depth: int = 0) -> Any:
    """The value rebuilt from plain JSON types, so that a template meets no object with methods of its own.

    Raises TokenizerError for anything else and for nesting over 100 deep.
    """
    if depth > MAX_DEPTH:
        raise TokenizerError(f"`{name}` is nested over {MAX_DEPTH} deep; a template gets plain JSON data.")
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, name, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name, depth + 1) for item in value]
    raise TokenizerError(f"`{name}` must be plain JSON data, it holds a {type(value).__name__}.")
