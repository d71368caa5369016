"""Command lines as people type them, made into the one form that the parser takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from llm_cli.errors import nearest
from llm_cli.output import write_notice

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument, ArgumentCollection

PREFIX = "LLM_"
OTHER_VARIABLES = {"LLM_CHECKPOINT_DIR", "LLM_DEBUG", "LLM_KERNELS", "LLM_KERNELS_LIBRARY", "LLM_TEST_DATA"}
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
    as in `--prompt "- milk"`, is bound by `=` too. Everything after `--` stays as it is. A variable of the environment
    that misspells an option of the command is told on stderr, for the parser would never see it.
    """
    tokens = list(argv)
    command, i = command_of(app, tokens)
    if i == 0 or command.default_command is None:
        return tokens
    arguments = command.assemble_argument_collection()
    for notice in misspelt_variables(app, arguments):
        write_notice(notice)
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


def misspelt_variables(app: App, arguments: ArgumentCollection) -> list[str]:
    """A sentence for each LLM_ variable that means nothing and is spelt almost like an option; values are never told.

    `arguments` are those of the command that runs; variables of other commands and of other programs may be set too.
    """
    known = {name.removeprefix(PREFIX) for name in _variables(arguments)}
    given = (name.removeprefix(PREFIX) for name in sorted(os.environ) if name.startswith(PREFIX))
    near = {name: nearest(name, known) for name in given if name not in known}
    if not any(near.values()):
        return []  # the usual case: other commands need not be imported to see what their options are called
    meaningful = _all_variables(app) | OTHER_VARIABLES
    return [
        f"warning: the environment variable {PREFIX}{name} means nothing here; did you mean {PREFIX}{other}?"
        for name, other in near.items()
        if other is not None and PREFIX + name not in meaningful
    ]


def _variables(arguments: ArgumentCollection) -> set[str]:
    """The environment variables of a command's options."""
    options = (argument.name for argument in arguments if argument.parse and argument.index is None)
    return {PREFIX + name.lstrip("-").upper().replace("-", "_").replace(".", "_") for name in options}


def _all_variables(app: App) -> set[str]:
    """The environment variables of the options of every command below `app`."""
    own = set() if app.default_command is None else _variables(app.assemble_argument_collection())
    return own.union(*(_all_variables(app[name]) for name in app if not name.startswith("-")))


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
    optional = bool in get_args(argument.hint)  # the parser takes these for flags too, and their value for an argument
    if argument.token_count()[0] == 0 or optional:
        return following.lower() in (("true", "false", "null", "none") if optional else ("true", "false"))
    return following.startswith("-") and not OPTION.fullmatch(following)
