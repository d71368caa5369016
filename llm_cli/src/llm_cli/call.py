"""One call of `LLM.generate` and its kin, read: which prompts, how to continue them, and with which adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_cli.options import Options, check_keywords
from llm_cli.prompts import Prompt, Prompts, as_list, is_continued
from llm_cli.reading import PromptCache
from llm_finetune.lora import Choice
from llm_tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Call:
    """The prompts as ids. `continued` says that they are beginnings of what is generated; `choice` holds the adapter
    that was named (None is the base alone), or nothing where none was.
    """

    prompts: list[list[int]]
    options: Options
    cache: PromptCache | None
    choice: tuple[Choice, ...]
    continued: bool

    @classmethod
    def read(
        cls,
        prompt: Prompt | Prompts,
        given: Mapping[str, Any],
        encode: Callable[..., list[int]],
        tokenizer: Tokenizer | None,
    ) -> Call:
        """The call with the keywords `given`; `encode` makes ids of a prompt. Raises ValueError for what is wrong."""
        check_keywords(given)
        rest = dict(given)
        sys_prompt, raw, cache = rest.pop("sys_prompt", None), rest.pop("raw", False), rest.pop("cache", None)
        choice = (rest.pop("adapter"),) if "adapter" in rest else ()
        options = Options(**rest)
        each = as_list(prompt)[0]
        return cls(
            prompts=[encode(one, sys_prompt=sys_prompt, raw=raw) for one in each],
            options=options,
            cache=cache,
            choice=choice,
            continued=is_continued(each[0], tokenizer, raw=raw),  # a list holds prompts of one kind
        )
