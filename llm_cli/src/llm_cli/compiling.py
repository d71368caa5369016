"""Compiled steps from the command line: whether this machine can, and where what was compiled is kept."""

import os
from pathlib import Path

import llm_blocks
from llm_cli.output import write_notice
from llm_cli.placement import default_device


def begin() -> None:
    """Check that there is a compiler, before any weights are read, and keep what is compiled for later runs.

    For programs, not for libraries: the folder holds for the whole process. TORCHINDUCTOR_CACHE_DIR names another one
    than that in the user's own cache; torch's default lies where all users of the machine may write and a restart
    clears. Raises CompileError.
    """
    # first of all: once torch's compiler is imported, it has chosen
    folder = os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(default_folder()))
    llm_blocks.require_compiler(default_device())
    write_notice(f"the decoding step is compiled once, which takes a while, and kept in {folder}")


def default_folder() -> Path:
    """Where the user's own caches are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm_cli" / "compiled"
