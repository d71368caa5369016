"""bitsandbytes itself: imported when it is used, and kept from fetching anything."""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

NAME = "bitsandbytes"
MISSING = f"weights in LLM.int8() need {NAME}, which is missing: `python -m pip install {NAME}` brings it"
_KERNELS = "kernels"
_LOGGER = f"{NAME}.backends.cpu.ops"


def is_there() -> bool:
    """Whether bitsandbytes is installed; nothing is imported."""
    return NAME in sys.modules or _found()


@cache
def _found() -> bool:
    return find_spec(NAME) is not None


def require() -> None:
    """Raise ValueError, which tells how to get it, where bitsandbytes is not installed; nothing is imported."""
    if not is_there():
        raise ValueError(MISSING)


def library() -> Any:
    """The module bitsandbytes. ValueError where it is not installed."""
    require()
    if NAME in sys.modules:
        return sys.modules[NAME]
    with _offline():
        return importlib.import_module(NAME)


@contextmanager
def _offline() -> Iterator[None]:
    """On processors with AVX-512 BF16 the import fetches a compiled kernel from the hub and runs it, by the package
    `kernels`, or warns where that is missing. Nothing here uses it: neither is wanted from an import."""
    logger = logging.getLogger(_LOGGER)
    level, hidden = logger.level, _KERNELS not in sys.modules
    logger.setLevel(logging.CRITICAL)
    if hidden:
        sys.modules[_KERNELS] = None  # type: ignore[assignment]  # what makes an import of it fail
    try:
        yield
    finally:
        logger.setLevel(level)
        if hidden:
            del sys.modules[_KERNELS]
