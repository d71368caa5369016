"""`llm chat`: talk with a model in a terminal, or with lines from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from llm_cli.commands.prompt_cache import NO_PROMPT_CACHE, PromptCacheFile
from llm_cli.commands.sampling import (
    DEFAULT_SAMPLING,
    HUGE_PAGES,
    AccessToken,
    Compile,
    HugePages,
    KvCache,
    Model,
    Precision,
    Quantize,
    Sampling,
    SystemPrompt,
    TokenizerDir,
)
from llm_cli.commands.speculation import NO_SPECULATION, Speculation, report
from llm_cli.errors import usage
from llm_cli.output import noticed, write_notice, write_text

if TYPE_CHECKING:
    from llm_cli.chat import ChatSession
    from llm_cli.completion import Completion

PROMPT = ">> Prompt: "
MORE = "...        "
REPLY = ">> Reply: "


def chat(
    model: Model = None,
    /,
    *,
    sys_prompt: SystemPrompt = None,
    max_new_tokens: Annotated[int, Parameter(help="Most tokens of an answer.")] = 512,
    sampling: Sampling = DEFAULT_SAMPLING,
    speculation: Speculation = NO_SPECULATION,
    prompt_file: PromptCacheFile = NO_PROMPT_CACHE,
    precision: Precision = None,
    quantize: Quantize = None,
    kv_cache: KvCache = None,
    huge_pages: HugePages = "auto",
    compile: Compile = False,
    adapter: Annotated[
        list[str] | None,
        Parameter(help="An adapter's folder to put onto MODEL, as in sql=PATH; may be repeated, /adapter changes it."),
    ] = None,
    tokenizer_dir: TokenizerDir = None,
    multiline: Annotated[bool, Parameter(help="A prompt may span lines; an empty line or !submit sends it.")] = False,
    access_token: AccessToken = None,
) -> None:
    """Talk with a model: it remembers the turns, and /help lists commands. Ctrl-C stops an answer, Ctrl-D leaves."""
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, **sampling.given(), "compile": compile}
    from llm_cli import compiling
    from llm_cli.adapters import read_named
    from llm_cli.belonging import TokenizerWarning
    from llm_cli.chat import ChatSession
    from llm_cli.llm import LLM
    from llm_cli.options import Options
    from llm_cli.placement import settle_threads
    from llm_cli.quantizing import tell_lost

    with usage():  # a wrong value is told before the weights are read
        settings |= speculation.given()
        Options(**settings)
    keeper = prompt_file.keeper()
    if compile:
        compiling.begin()
    with noticed(TokenizerWarning):
        places: dict[str, Any] = {"tokenizer_dir": tokenizer_dir, "draft_model": speculation.draft_model}
        places["adapters"] = read_named(adapter or [])
        llm = LLM.load(model, access_token=access_token, distribute=None, **places)
    if not llm.has_tokenizer:
        raise ValueError(
            "this checkpoint has no tokenizer, without which there is no text; name one with --tokenizer_dir"
        )
    # A template without a place for the system prompt is told here, before the weights are read.
    session = ChatSession(llm, sys_prompt=sys_prompt, settings=settings, notice=write_notice)
    llm.distribute(precision=precision, quantize=quantize, kv_cache=kv_cache, huge_pages=HUGE_PAGES[huge_pages])
    settle_threads(llm.model)
    tell_lost(llm)
    if keeper is not None:
        session.start_from(keeper.open(llm), keeper.keep)
    if llm.tokenizer.chat_template is None:
        write_notice("this model has no chat template, so it continues the text instead of answering")
    if sys.stdin.isatty():
        write_notice("/help lists the commands; Ctrl-D leaves")
    talk(session, line_reader(), multiline=multiline, typed=sys.stdin.isatty())


def talk(session: ChatSession, read: Callable[[str], str], *, multiline: bool = False, typed: bool = False) -> None:
    """Read, answer, repeat, until /exit, the end of the input, or Ctrl-C twice in a row.

    `read` shows a prompt and gives the next line, raises EOFError at the end and KeyboardInterrupt on Ctrl-C.
    Ctrl-C in an answer only stops it; where lines aren't `typed`, and the next answer would follow at once, doing
    that twice in a row leaves. Answers go to stdout, everything else to stderr.
    """
    interrupts = 0
    while interrupts < 2:
        answering = False
        try:
            text = _read_text(read, multiline)
            answering = True
            if text.strip() and _left(session, text):
                return
            interrupts = 0
        except EOFError:
            if typed:
                write_notice("")  # the shell's prompt gets a line of its own
            return
        except KeyboardInterrupt:
            interrupts = 0 if answering and typed else interrupts + 1
            write_notice("(stopped)" if answering else "" if interrupts > 1 else "\n(Ctrl-C again or Ctrl-D leaves)")
        except ValueError as error:
            write_notice(str(error))


def _left(session: ChatSession, text: str) -> bool:
    """Do what a line says, and tell whether it was to leave. Raises ValueError."""
    from llm_cli.slash import respond

    outcome = respond(session, text)
    if outcome.notice:
        write_notice(outcome.notice)
    if outcome.answer is not None:
        _show(session, outcome.answer)
    return outcome.leave


def line_reader() -> Callable[[str], str]:
    """A function that reads a line: with editing and history on a terminal, else from the pipe with no prompt shown."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _piped_line
    with contextlib.suppress(ImportError):  # Windows has none: its console edits lines itself
        import readline  # noqa: F401  importing it gives input() editing and history
    return input


def _piped_line(_prompt: str) -> str:
    text = sys.stdin.readline()
    if not text:
        raise EOFError
    return text.removesuffix("\n")


def _read_text(read: Callable[[str], str], multiline: bool) -> str:
    """One line, or with `multiline` the lines up to an empty one, `!submit`, or the end of the input."""
    line = read(PROMPT)
    if not multiline or line.startswith("/"):
        return line
    lines = []
    while line.strip() not in ("", "!submit"):
        lines.append(line)
        try:
            line = read(MORE)
        except EOFError:
            break
    return "\n".join(lines)


def _show(session: ChatSession, answer: Generator[str, None, None]) -> None:
    """Write an answer as it comes, and its speed after it."""
    if sys.stderr.isatty():
        sys.stderr.write(REPLY)
        sys.stderr.flush()
    try:
        for piece in answer:
            write_text(piece)
    finally:
        answer.close()  # the session notes now what was said, also when Ctrl-C came while we were writing
        write_text("\n")
    last = session.last
    assert last is not None
    speed = f", {last.tokens_per_second:.1f} tokens/s" if last.tokens_per_second else ""
    told = report([last])
    write_notice(f"({len(last.token_ids)} tokens{speed}{_end(session, last)}{told and f'; {told}'})")


def _end(session: ChatSession, last: Completion) -> str:
    """A clause that says what cut an answer short, or nothing."""
    if last.finish_reason != "length":
        return ""
    full = last.context_ended(session.settings.get("max_new_tokens", 50))
    return f"; {'the full context' if full else 'max_new_tokens'} ended it"
