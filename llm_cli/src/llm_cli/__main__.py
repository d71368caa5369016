"""The `llm` command; `python -m llm_cli` is the same."""

from __future__ import annotations

import io
import os
import sys
from types import TracebackType

from llm_cli import errors
from llm_cli.output import write_notice


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.excepthook = tell_fault
    code = errors.DONE
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a console that lacks a character gets a question mark, not an error
    try:
        from llm_cli.app import run

        code = run()
        sys.stdout.flush()
    except OSError as error:  # stdout takes no more: its reader (head, less) has gone, or the disk is full
        if code == errors.DONE and not isinstance(error, BrokenPipeError):
            write_notice(f"llm: error: {errors.explain(error)}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would complain again at exit
        code = errors.FAILED
    except KeyboardInterrupt:  # before there was anything to interrupt
        code = errors.INTERRUPTED
    sys.exit(code)


def tell_fault(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One sentence for an error nobody foresaw; its traceback with --debug. Python then exits with 1."""
    from llm_cli.argv import split_debug

    argv, debug = split_debug(sys.argv[1:])
    text = errors.formatted_traceback(error) if debug else ""
    text += f"llm: error: {errors.explain_fault(error)}"
    write_notice(errors.redact(text, errors.secrets(argv)))


if __name__ == "__main__":
    main()
