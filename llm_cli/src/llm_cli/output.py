"""Results on stdout: plain lines for people, one JSON object for programs."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Text of a model or a checkpoint could move the cursor, retitle the window or answer for the person who reads it.
CONTROLS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"},  # a picture of each, as in ␛
    ord("\r"): None,
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def visible(text: str) -> str:
    """`text` with its control characters made harmless: pictures of them, but for tabs and line ends."""
    return text.translate(CONTROLS)


def write_text(text: str) -> None:
    """Text on stdout at once; where that is a terminal, nothing in it controls the terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_notice(text: str) -> None:
    """A line on stderr, without control characters."""
    sys.stderr.write(visible(text) + "\n")
    sys.stderr.flush()


@contextmanager
def noticed(category: type[Warning]) -> Iterator[None]:
    """A block whose warnings of this kind become lines on stderr, without the place in the code that Python names."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", category)
            yield
    finally:  # also when the block raises, for they may say why
        for warning in caught:
            if issubclass(warning.category, category):
                write_notice(f"warning: {warning.message}")
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout, in ASCII, so that it is the same in every locale and console."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def write_lines(*lines: str) -> None:
    """The lines on stdout."""
    write_text("".join(line + "\n" for line in lines))


def write_table(rows: Mapping[str, object]) -> None:
    """Names and values in two aligned columns."""
    width = max((len(name) for name in rows), default=0)
    write_lines(*(f"{name:<{width}}  {value}" for name, value in rows.items()))


def human_bytes(count: float) -> str:
    """A number of bytes in powers of 1000: `8.0 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: TB ends the loop")


def parse_bytes(text: str) -> int:
    """`5GB`, `500 MB`, `2GiB` or a plain number of bytes. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?)b?", text.strip().lower())
    count = (
        0 if found is None else int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))
    )
    if count < 1:
        raise ValueError(f"{text!r} is no size; write one as in 5GB, 500MB or 2GiB")
    return count
