"""Results on stdout: plain lines for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")


def write_lines(*lines: str) -> None:
    """The lines on stdout."""
    sys.stdout.write("".join(line + "\n" for line in lines))


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
