"""Another program that is also called `llm`: found, and told, because whichever comes first on PATH wins silently."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

MARK = b"llm_cli"
SCRIPT_BYTES = 1 << 20  # a console script is a few hundred bytes; a launcher on Windows about 100 kB


def other_command() -> str | None:
    """A clause that names another `llm` command of this Python or earlier on PATH; None when there is none."""
    owners = {
        entry.dist.name
        for entry in entry_points(group="console_scripts", name="llm")
        if entry.dist is not None and not entry.value.startswith("llm_cli.")
    }
    if owners:
        return f"the installed package '{sorted(owners)[0]}' also provides a command called llm"
    first = shutil.which("llm")
    if first is not None and not _is_ours(Path(first)):
        return f"the llm that comes first on PATH is another program, '{first}'"
    return None


def _is_ours(script: Path) -> bool:
    own = Path(sysconfig.get_path("scripts")) / "llm"
    try:
        if own.exists() and os.path.samefile(script, own) and MARK in own.read_bytes():
            return True
        with open(script, "rb") as file:
            return MARK in file.read(SCRIPT_BYTES)
    except OSError:
        return False
