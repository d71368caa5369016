"""A wrong command line told in one sentence, with the nearest known name, whichever rule of the parser it broke."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from cyclopts import (
    App,
    Argument,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from llm_cli.argv import command_of
from llm_cli.errors import nearest, suggestion


def usage_sentence(app: App, error: CycloptsError, argv: Sequence[str]) -> str:
    """What is wrong with the command line, and where the right form stands."""
    words = argv[next((i for i, token in enumerate(argv) if token in app and not token.startswith("-")), len(argv)) :]
    command, count = command_of(app, words)
    subject = " ".join(["llm", *words[:count]])
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error, subject)
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        return _unknown_command(error.unused_tokens[0], command, subject)
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"`{subject}` takes no further argument '{error.unused_tokens[0]}'; see `{subject} --help`"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return _missing(error, error.argument, subject, argv)
    text = " ".join(str(error).split()).rstrip(".")
    return f"{text[:1].lower()}{text[1:]}; see `{subject} --help`"


def _unknown_command(name: str, command: App, subject: str) -> str:
    is_option = name.startswith("-")
    known = sorted(other for other in command if other.startswith("-") == is_option)
    kind = "option" if is_option else "command"
    called = f"`{subject} {name}`" if subject != "llm" and not is_option else f"'{name}'"
    return f"there is no {kind} {called}{suggestion(name, known)} (the {kind}s are {', '.join(known)})"


def _unknown_option(error: UnknownOptionError, subject: str) -> str:
    option = (error.token.keyword or error.token.value).split("=", 1)[0]
    names = chain.from_iterable(argument.names for argument in error.argument_collection if argument.parse)
    wanted, known = option.lstrip("-").replace("-", "_"), [name.lstrip("-") for name in names]
    found = nearest(wanted, known) or nearest(wanted.replace(".", "_"), known) or _of_another_group(wanted, known)
    hint = f"; did you mean --{found}?" if found else ""
    return f"`{subject}` has no option {option}{hint} (`{subject} --help` lists them)"


def _of_another_group(name: str, known: Sequence[str]) -> str | None:
    """The option that is called so within a group (epochs: train.epochs), or a misspelling of one."""
    last = {each.rpartition(".")[2]: each for each in known if "." in each}
    found = nearest(name.rpartition(".")[2], last)
    return None if found is None else last[found]


def _missing(error: MissingArgumentError, argument: Argument, subject: str, argv: Sequence[str]) -> str:
    name = argument.name.lstrip("-").upper()
    if error.keyword is not None:
        return f"the option {error.keyword} of `{subject}` needs a value; see `{subject} --help`"
    if argument.index is not None:
        return f"`{subject}` needs {name}; see `{subject} --help`"
    example = f"llm {shlex.join(argv)} {argument.name} {'PATH' if argument.hint is Path else name}"
    return f"`{subject}` needs the option {argument.name}, as in `{example}`; see `{subject} --help`"
