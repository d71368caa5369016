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
    """The known name of which `name` is plausibly a misspelling, in any case and with - for _; None where none is."""
    spelled = {_folded(candidate): candidate for candidate in known}
    wanted = _folded(name)
    swapped = [each for each in spelled if sorted(each) == sorted(wanted)]
    close = [wanted] if wanted in spelled else swapped or difflib.get_close_matches(wanted, spelled, n=3, cutoff=0.8)
    found = next((each for each in close if each in (wanted, *swapped) or _is_misspelling(wanted, each)), None)
    return None if found is None else spelled[found]


def _is_misspelling(name: str, known: str) -> bool:
    """Whether they differ by a slip: in a short name a letter too many or too few, but no other one (llava, llama)."""
    least = 0.85 if len(name) == len(known) else 0.8
    # A folder that two paths share makes them alike, whatever is behind it.
    return _ratio(name, known) >= least and _ratio(_last(name), _last(known)) >= 0.7


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, or an empty string."""
    found = nearest(name, known)
    return f"; did you mean {found}?" if found else ""


def explain(error: BaseException) -> str:
    """One line for an expected error: what, why and what to do next."""
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_os(error)
    if isinstance(error, ImportError) and error.name:
        return _explain_import(error, error.name)
    if isinstance(error, MemoryError):
        return "there is not enough memory; choose a smaller model, a smaller --precision, or free some memory"
    return " ".join(str(error).split()) or type(error).__name__


def _explain_import(error: ImportError, module: str) -> str:
    """The way out of a missing module, by the distribution that has it."""
    said, package = " ".join(error.msg.split()), module.partition(".")[0]
    if package.startswith("llm_"):  # ours are in the repository; who owns such a name in an index may be anybody
        return (
            f"{said}; the installed {package} is incomplete or of another version than the packages beside it, so "
            f"install it again from this project's repository with `python -m pip install ./{package}`"
        )
    if not isinstance(error, ModuleNotFoundError):
        return said
    newer = "--upgrade " if package != module else ""  # it is here, but without the part that is asked for
    return f"{said}; install it into this Python with `python -m pip install {newer}{package}`"


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
    why = error.strerror or type(error).__name__
    return f"cannot {where}: {why[:1].lower()}{why[1:]}; {way_out}"


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
