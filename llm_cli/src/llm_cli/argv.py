"""Command lines as people type them, made into the one form that the parser takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument, ArgumentCollection

OPTION = re.compile(r"--?[A-Za-z][\w.\-]*(=.*)?", re.DOTALL)


def split_debug(argv: Sequence[str]) -> tuple[list[str], bool]:
    """The command line without `--debug`, wherever it stood before a `--`, and whether it was there (or LLM_DEBUG)."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    rest = [token for token in argv[:end] if token != "--debug"]
    asked = len(rest) < end or os.environ.get("LLM_DEBUG", "").lower() not in ("", "0", "false")
    return [*rest, *argv[end:]], asked


def command_of(app: App, argv: Sequence[str]) -> tuple[App, int]:
    """The command that the first words name, and how many words that takes: two for `export hf`, none for `--help`."""
    count = 0
    while count < len(argv) and not argv[count].startswith("-") and argv[count] in app:
        app, count = app[argv[count]], count + 1
    return app, count


def normalise(app: App, argv: Sequence[str]) -> list[str]:
    """The command line with values bound to their options where the parser would misread them.

    `--multiline true` becomes `--multiline=true`, and a value that begins with a hyphen but can't be an option,
    as in `--prompt "- milk"`, is bound by `=` too. Everything after `--` stays as it is.
    """
    tokens = list(argv)
    command, i = command_of(app, tokens)
    if i == 0 or command.default_command is None:
        return tokens
    arguments = command.assemble_argument_collection()
    result = tokens[:i]
    while i < len(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else None
        if tokens[i] == "--":
            return result + tokens[i:]
        if following is not None and _belongs(find(arguments, tokens[i]), following):
            result.append(f"{tokens[i]}={following}")
            i += 2
            continue
        result.append(tokens[i])
        i += 1
    return result


def find(arguments: ArgumentCollection, token: str) -> Argument | None:
    """The argument that an option token such as `--top_k` or `--top-k` names; None for `--top_k=3` and values."""
    if not token.startswith("--") or "=" in token:
        return None
    try:
        argument, keys, _ = arguments.match(token)
    except ValueError:
        return None
    return None if keys else argument


def _belongs(argument: Argument | None, following: str) -> bool:
    if argument is None:
        return False
    if argument.token_count()[0] == 0:
        return following.lower() in ("true", "false")
    return following.startswith("-") and not OPTION.fullmatch(following)
