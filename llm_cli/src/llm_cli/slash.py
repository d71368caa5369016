"""The slash commands of `llm chat`."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from llm_cli.chat import ChatSession
from llm_cli.errors import suggestion


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a line from the user leads to: something to tell, an answer to show, or the end."""

    notice: str = ""
    answer: Generator[str, None, None] | None = None
    leave: bool = False


@dataclass(frozen=True, kw_only=True)
class Command:
    """A slash command: how it is written, what it does, and the function that does it with the text after it."""

    usage: str
    help: str
    run: Callable[[ChatSession, str], Outcome]


def respond(session: ChatSession, text: str) -> Outcome:
    """Do what a line says: a slash command, or else a question to the model. Raises ValueError."""
    if text.strip() in ("!quit", "!exit"):
        return Outcome(leave=True)
    if not text.startswith("/"):
        return Outcome(answer=session.ask(text))
    name, _, rest = text[1:].strip().partition(" ")
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS).replace("mean ", "mean /") or "; /help lists the commands"
        raise ValueError(f"there is no command /{name}{hint} (a space in front sends the line to the model)")
    return COMMANDS[name].run(session, rest.strip())


def _help(session: ChatSession, rest: str) -> Outcome:
    width = max(len(command.usage) for command in COMMANDS.values())
    return Outcome(notice="\n".join(f"{c.usage:<{width}}  {c.help}" for c in COMMANDS.values()))


def _clear(session: ChatSession, rest: str) -> Outcome:
    session.clear()
    return Outcome(notice="the conversation begins anew")


def _system(session: ChatSession, rest: str) -> Outcome:
    if not rest:
        return Outcome(notice=session.sys_prompt or "there is no system prompt")
    session.set_system(None if rest == "none" else rest)
    return Outcome(notice="the system prompt is removed" if rest == "none" else "the system prompt is set")


def _set(session: ChatSession, rest: str) -> Outcome:
    key, _, value = rest.partition(" ")
    if not key:
        return Outcome(notice="\n".join(f"{name} = {value}" for name, value in session.settings.items()))
    if not value.strip():
        raise ValueError(f"/set takes a name and a value, as in /set temperature 0.5; there is no value after {key}")
    return Outcome(notice=f"{key} = {session.set(key, value.strip())}")


def _adapter(session: ChatSession, rest: str) -> Outcome:
    if rest:
        session.use_adapter(None if rest == "none" else rest)
    return Outcome(
        notice=f"the adapter is {session.adapter or 'none'}; there are {', '.join(session.adapters) or 'none'}"
    )


def _save(session: ChatSession, rest: str) -> Outcome:
    if not rest:
        raise ValueError("/save takes a file name, as in /save talk.json")
    return Outcome(notice=f"saved to '{session.save(rest)}'")


COMMANDS = {
    "help": Command(usage="/help", help="this list", run=_help),
    "clear": Command(usage="/clear", help="forget every turn", run=_clear),
    "system": Command(usage="/system TEXT", help="set the system prompt (none: remove it); alone: show", run=_system),
    "set": Command(usage="/set NAME VALUE", help="change a setting (none: its default); alone: show", run=_set),
    "adapter": Command(
        usage="/adapter NAME", help="answer with another adapter (none: the base); alone: show", run=_adapter
    ),
    "save": Command(usage="/save FILE", help="write the conversation as JSON", run=_save),
    "regen": Command(
        usage="/regen", help="answer the last question again", run=lambda s, _: Outcome(answer=s.regenerate())
    ),
    "exit": Command(usage="/exit", help="leave; so do Ctrl-D, and Ctrl-C twice", run=lambda s, _: Outcome(leave=True)),
}
