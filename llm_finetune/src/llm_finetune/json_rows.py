"""Rows of JSON files, each with the line it begins in."""

import json
import re
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from llm_finetune.rows import DataError, RowError

MAX_ROW_BYTES = 10 * 2**20
MAX_JSON_BYTES = 2 * 2**30
Located = tuple[str, object]  # "data.jsonl:17" and what stands there
Bad = Callable[[RowError], None]  # told of each row that can't be read; raises, or returns to leave the row out

_SPACE = re.compile(r"[ \t\n\r]*")


def json_rows(path: Path, bad: Bad) -> Iterator[Located]:
    """Of a list of rows, an object with the list under `data`, or one row after another. DataError for other text."""
    text = _read(path)
    start = _skip(text, 0)
    if text[start : start + 1] == "{":
        value, end = _value(text, start, path, 1)
        inner = _member(text, start, "data") if isinstance(value, dict) and "data" in value else None
        if inner is None or _skip(text, end) < len(text):
            yield from _values(text, start, path, bad, listed=False)
            return
        start = inner
    if text[start : start + 1] != "[":
        raise DataError(f"{path}: a JSON file of data begins with [ or {{, this one with {text[start : start + 1]!r}")
    yield from _values(text, start + 1, path, bad, listed=True)


def jsonl_rows(path: Path, bad: Bad) -> Iterator[Located]:
    """Of a file with an object in each line; empty lines are passed over."""
    with path.open("rb") as file:
        for number, line in _lines(file):
            where = f"{path.name}:{number}"
            try:
                if line is None:
                    raise ValueError(f"the line is longer than {MAX_ROW_BYTES:,} bytes")
                if not line.strip():
                    continue
                value = _DECODER.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                bad(RowError(where, f"not a row of JSON ({_reason(error)})", "one object", reason="a line is no JSON"))
            else:
                yield where, value


def _lines(file: BufferedIOBase) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one over the limit, of which no more is held than that."""
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        whole = len(line) <= MAX_ROW_BYTES
        while len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES + 1)
        yield number, line if whole else None


def read_text(path: Path, max_bytes: int) -> str:
    """The file as UTF-8, with or without a byte order mark. DataError for other bytes and for more than max_bytes."""
    size = path.stat().st_size
    if size > max_bytes:
        raise DataError(
            f"{path}: {size:,} bytes are more than {max_bytes:,}; write it as JSONL or Parquet, or split it"
        )
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _read(path: Path) -> str:
    return read_text(path, MAX_JSON_BYTES)


def _values(text: str, position: int, path: Path, bad: Bad, *, listed: bool) -> Iterator[Located]:
    """The values from `position` on: between commas up to the end of the list, or one after another to the end."""
    line, counted = 1, 0
    position = _skip(text, position)
    while position < len(text) and not (listed and text[position] == "]"):
        line, counted = line + text.count("\n", counted, position), position
        value, end = _value(text, position, path, line)
        where = f"{path.name}:{line}"
        if end - position > MAX_ROW_BYTES:
            bad(
                RowError(
                    where, f"the row has {end - position:,} characters", f"at most {MAX_ROW_BYTES:,}", reason="too long"
                )
            )
        else:
            yield where, value
        position = _skip(text, end)
        if listed:
            position = _comma(text, position, path)
    if listed and position >= len(text):
        raise DataError(f"{path}: the list isn't closed, the file is incomplete; write or download it again")


def _comma(text: str, position: int, path: Path) -> int:
    """Where the next value begins, or the closing bracket stands."""
    found = text[position : position + 1]
    if found == ",":
        return _skip(text, position + 1)
    if found not in ("]", ""):
        line = 1 + text.count("\n", 0, position)
        raise DataError(f"{path}:{line}: after a row comes a comma or ], not {found!r}; fix the file")
    return position


def _value(text: str, position: int, path: Path, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); fix the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{line}: not valid JSON ({_reason(error)}); fix the file") from None


def _member(text: str, position: int, wanted: str) -> int | None:
    """Where the list of that name begins in the (valid) object at `position`; None where it is no list."""
    while text[position] != "}":
        key, position = _DECODER.raw_decode(text, _skip(text, position + 1))
        position = _skip(text, _skip(text, position) + 1)
        if key == wanted:
            return position if text[position] == "[" else None
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
    return None


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None  # the pattern matches nothing too
    return found.end()


def _reason(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
