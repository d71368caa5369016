"""A conversation with a model, without a terminal: history, trimming, settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_cli.belonging import NO_SYSTEM, reads_system
from llm_cli.errors import suggestion
from llm_cli.options import Options
from llm_cli.reading import PromptCache
from llm_sepweight.atomic import atomic_file

if TYPE_CHECKING:
    from llm_cli.completion import Completion
    from llm_cli.generation import Generation
    from llm_cli.llm import LLM
    from llm_cli.prompts import Message, Prompt

SETTINGS: dict[str, Callable[[str], Any]] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "typical_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
    "stop": str,
}


class ChatSession:
    """Turns with a model. Each answer reads only what is new, and the oldest turns go when the context is full.

    A model without a chat template continues the text: what was said so far and the new line, as they are.
    `notice` is told what a person should know besides the answers.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        sys_prompt: str | None = None,
        settings: Mapping[str, Any] | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.messages: list[Message] = []
        self.settings: dict[str, Any] = dict(settings or {})
        self.last: Completion | None = None
        self.sys_prompt: str | None = None
        self._llm, self._notice = llm, notice
        self._templated = llm.tokenizer.chat_template is not None
        self._cache = PromptCache()
        self._keep: Callable[[], None] | None = None
        self._sent_from = 0  # messages before this one are left out, because the context is full
        self._answers = 0
        self._adapter: tuple[str | None, ...] = ()  # what was chosen since loading
        self.set_system(sys_prompt)

    def start_from(self, cache: PromptCache, keep: Callable[[], None]) -> None:
        """Take the system prompt, or how the first prompt begins, from an exact cache as far as it is there.

        `keep` is called once, when the first prompt has been read and `cache` holds it. From then on the cache follows
        the conversation.
        """
        self._cache, self._keep = cache, keep

    def ask(self, text: str) -> Generator[str, None, None]:
        """Say something; the pieces of the answer as they come. Leaving the iterator early keeps what has come.

        The turn becomes part of the history with its first token. Raises ValueError, with the history unchanged, for
        a text that can't be answered (longer than the context).
        """
        return self._respond([*self.messages, {"role": "user", "content": text}])

    def regenerate(self) -> Generator[str, None, None]:
        """Answer the last question again, in place of the last answer."""
        if not self.messages:
            raise ValueError("there is no answer to make again yet; ask something first")
        return self._respond(self.messages[:-1])

    def clear(self) -> None:
        """Forget every turn; the system prompt and the settings stay."""
        self.messages.clear()
        self._sent_from = 0

    def set_system(self, text: str | None) -> None:
        """Set or (None) remove the system prompt. Raises ValueError where the chat template has no place for it."""
        if text is not None and not self._templated:
            raise ValueError("a system prompt needs a chat template, and this model has none; say it in the prompt")
        if text is not None and not self._reads(text):
            raise ValueError(NO_SYSTEM)
        self.sys_prompt = text

    @property
    def adapters(self) -> list[str]:
        """Those that were loaded, by name."""
        return self._llm.adapters

    @property
    def adapter(self) -> str | None:
        """That which answers; None for the base model alone."""
        return self._adapter[0] if self._adapter else next(iter(self.adapters), None)

    def use_adapter(self, name: str | None) -> None:
        """Have answers come from another adapter, or None, from now on. Raises ValueError for an unknown one."""
        if name is not None and name not in self.adapters:
            hint = suggestion(name, self.adapters) or f"; there are {', '.join(self.adapters) or 'none'}"
            raise ValueError(f"there is no adapter {name!r}{hint}")
        self._adapter = (name,)

    def set(self, key: str, value: str) -> Any:
        """Change a setting from its text ("none" for its default); the new value. Raises ValueError."""
        if key not in SETTINGS:
            hint = suggestion(key, SETTINGS) or f"; there are {', '.join(SETTINGS)}"
            raise ValueError(f"there is no setting {key!r}{hint}")
        if value.lower() == "none":
            self.settings.pop(key, None)
            return None
        try:
            new = SETTINGS[key](value)
        except ValueError:
            kind = "a whole number" if SETTINGS[key] is int else "a number"
            raise ValueError(f"{key} must be {kind}, not {value!r}") from None
        Options(**{**self.settings, key: new})  # raises for a value outside its range
        self.settings[key] = new
        return new

    def save(self, path: str | Path) -> Path:
        """Write the conversation as JSON: {"messages": [...], "settings": {...}}. Never overwrites a file."""
        target = Path(os.path.expanduser(path))
        system = [] if self.sys_prompt is None else [{"role": "system", "content": self.sys_prompt}]
        text = json.dumps({"messages": system + self.messages, "settings": self.settings}, ensure_ascii=False, indent=2)
        try:
            if target.exists():
                raise ValueError(f"'{target}' exists already; give another name")
            with atomic_file(target) as file:
                file.write(text.encode() + b"\n")
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise ValueError(f"cannot write '{target}': {why[:1].lower()}{why[1:]}; give another path") from error
        return target

    def _respond(self, messages: list[Message]) -> Generator[str, None, None]:
        """Answer the last of `messages`; as many of the oldest turns as the answer needs room are left out."""
        limit = self._llm.context_length
        room = min(self.settings.get("max_new_tokens", 50), limit // 4)
        sent_from = self._sent_from
        while True:
            prompt = self._prompt(messages[sent_from:])
            ids = self._llm.encode(prompt, sys_prompt=self.sys_prompt)
            if len(ids) + room <= limit or sent_from + 1 >= len(messages):
                break
            sent_from += 2
        # Raises for what can't be answered, before anything has changed.
        run = self._llm.start(prompt, sys_prompt=self.sys_prompt, cache=self._cache, **self._options())
        left_out = (sent_from - self._sent_from) // 2
        self._sent_from = sent_from
        if left_out:
            turns = "the oldest turn is" if left_out == 1 else f"the {left_out} oldest turns are"
            self._notice(f"the context of {limit} tokens is full: {turns} left out from now on")
        return self._answer(run, messages)

    def _reads(self, system: str) -> bool:
        """Whether the template writes something else for this text than for another or none, with a question."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": "?"}]
        return reads_system(self._llm.tokenizer, messages)

    def _prompt(self, messages: list[Message]) -> Prompt:
        return messages if self._templated else "".join(message["content"] for message in messages)

    def _options(self) -> dict[str, Any]:
        """The settings; a seed gives each answer its own, so that an answer made again differs."""
        seed = self.settings.get("seed")
        chosen = {"adapter": self._adapter[0]} if self._adapter else {}
        return {**self.settings, **chosen, "seed": None if seed is None else seed + self._answers}

    def _answer(self, run: Generation, messages: list[Message]) -> Generator[str, None, None]:
        self._answers += 1
        try:
            for piece in run:
                yield piece.text
                if self._keep is not None:
                    keep, self._keep, self._cache.exact = self._keep, None, False
                    keep()
        finally:
            # Also when the caller left early or Ctrl-C came: what was said is part of the conversation.
            self.last = run.completions[0]
            if self.last.token_ids:
                self.messages = [*messages, {"role": "assistant", "content": self.last.text}]
