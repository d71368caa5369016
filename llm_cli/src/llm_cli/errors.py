"""What the command says when something goes wrong: one sentence, an exit code, and the nearest known name."""

from __future__ import annotations

import difflib
import errno
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# Everything a command may end with by design: bad values, bad files, a missing extra, too little memory.
# Anything else is a fault of ours and reaches `explain_fault`.
EXPECTED = (ValueError, OSError, ImportError, MemoryError)

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "LLM_ACCESS_TOKEN")


class UsageError(ValueError):
    """The command line itself is wrong (exit code 2); the message is one sentence with the way out."""


@contextmanager
def usage() -> Iterator[None]:
    """A block that checks values of the command line: a ValueError in it becomes UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name` in any case, or None when none is close."""
    spelled = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.7)
    return spelled[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, or an empty string."""
    found = nearest(name, known)
    return f"; did you mean {found}?" if found else ""


def explain(error: BaseException) -> str:
    """One line for an expected error: what, why and what to do next."""
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_os(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.msg}; install it into this Python with `python -m pip install {error.name}`"
    if isinstance(error, MemoryError):
        return "there is not enough memory; choose a smaller model, a smaller --precision, or free some memory"
    return " ".join(str(error).split()) or type(error).__name__


def _explain_os(error: OSError) -> str:
    named = isinstance(error.filename, str | os.PathLike)
    where = f"use '{os.fspath(error.filename)}'" if named else "read or write"
    ways_out = {
        errno.ENOENT: "check the path",
        errno.EACCES: "check the permissions, or choose another path",
        errno.EPERM: "check the permissions, or choose another path",
        errno.EROFS: "choose a path that can be written",
        errno.ENOSPC: "free some space, or choose a path on another disk",
        errno.EISDIR: "give a file, not a folder",
        errno.ENOTDIR: "give a folder, not a file",
        errno.EEXIST: "choose another path, or remove what is there",
    }
    way_out = ways_out.get(error.errno or 0, "run again with --debug for details")
    return f"cannot {where}: {(error.strerror or type(error).__name__).lower()}; {way_out}"


def explain_fault(error: BaseException) -> str:
    """One line for an error that no command is designed to end with."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return explain(MemoryError())
    kind = type(error).__name__ + (f": {text}" if text else "")
    return f"a fault in llm_cli ({kind}); please report it with what --debug prints and the output of `llm doctor`"


def secrets(argv: Sequence[str]) -> list[str]:
    """The access tokens that this process knows of, so that no output can hold them."""
    found = [os.environ.get(name, "") for name in TOKEN_VARIABLES]
    for i, token in enumerate(argv):
        flag, equals, value = token.partition("=")
        if flag.replace("-", "_") == "__access_token":
            found.append(value if equals else "".join(argv[i + 1 : i + 2]))
    return [value for value in found if value]


def redact(text: str, hidden: Iterable[str]) -> str:
    """`text` with each hidden string replaced by stars."""
    for secret in hidden:
        text = text.replace(secret, "***")
    return text


def formatted_traceback(error: BaseException) -> str:
    """The traceback with its causes, as Python prints it."""
    return "".join(traceback.format_exception(error))
