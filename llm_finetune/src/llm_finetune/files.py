"""Rows out of files and folders: JSON, JSON lines, CSV, Parquet, text."""

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from llm_finetune.json_rows import MAX_ROW_BYTES, Bad, Located, json_rows, jsonl_rows, read_text
from llm_finetune.rows import DataError, RowError
from llm_sepweight.safe import require_file

MAX_TEXT_BYTES = 2**30
_SPLIT = re.compile(r"(train|val|valid|validation|eval|dev|test)(?=[-_.]|$)", re.IGNORECASE)
_LFS = b"version https://git-lfs"


def stop(error: RowError) -> None:
    """What to do about a bad row: raise it."""
    raise error


def read_file(path: str | Path, bad: Bad = stop) -> Iterator[Located]:
    """Place ("data.jsonl:17": line of the file, number of the row in Parquet) and value of each row, in order.

    By the file's ending: .json (a list, an object with the list under `data`, or rows one after the other), .jsonl,
    .csv, .tsv (a header line), .parquet (needs pyarrow), .txt (one row, `text`). Text is UTF-8; a byte order mark and
    any line ends are fine. A row that can't be read goes to `bad`. Raises DataError for a file that can't, ImportError
    for Parquet without pyarrow.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: data is read from {', '.join(READERS)}, not from {path.suffix or 'a file without ending'}"
        )
    require_file(path)
    with path.open("rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise DataError(f"{path}: a Git LFS pointer instead of the file; run 'git lfs pull' or download it again")
    return reader(path, bad)


def data_files(path: str | Path) -> tuple[list[Path], list[Path]]:
    """Files to train on and to validate on: the file itself, or those of the folder and of the folders in it.

    Files (or folders) called train, val and the like, such as train-00000-of-00002.parquet, are taken by their names,
    and `test` is left out; where there are no such names, all files are for training. DataError for a folder without.
    """
    path = Path(path)
    if not path.is_dir():
        return [path], []
    splits: dict[str, list[Path]] = {"": [], "train": [], "val": [], "test": []}
    for file in _walk(path):
        splits[split_of(file.relative_to(path))].append(file)
    if splits["train"]:
        return splits["train"], splits["val"]
    named = [*splits["val"], *splits["test"]]
    if named:
        raise DataError(f"{path}: it has {named[0].name} and no file called train, such as train.jsonl; name one so")
    if not splits[""]:
        raise DataError(f"{path}: there is no data here; files end in {', '.join(READERS)}")
    return splits[""], []


def _walk(folder: Path) -> list[Path]:
    """Files of a known ending, sorted by path; hidden ones and the Hub's own notes are passed over."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(root, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in READERS
        ]
    return sorted(file for file in found if file.name not in ("dataset_infos.json", "dataset_info.json", "state.json"))


def split_of(path: PurePath) -> str:
    """Which split a file is of by its names: train, val, test, or "" where they don't say."""
    name = next((found[1].lower() for part in reversed(path.parts) if (found := _SPLIT.match(part))), "")
    return name if name in ("", "train", "test") else "val"


def _text_rows(path: Path, bad: Bad) -> Iterator[Located]:
    text = read_text(path, MAX_TEXT_BYTES)
    if "\0" in text:
        raise DataError(f"{path}: it holds NUL characters, so it is no text file")
    if text.strip():
        yield f"{path.name}:1", {"text": text.replace("\r\n", "\n")}


def _csv_rows(path: Path, bad: Bad, *, delimiter: str = ",") -> Iterator[Located]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_checked(file, path), delimiter=delimiter, strict=True)
        header = _header(reader, path)
        while True:
            where = f"{path.name}:{reader.line_num + 1}"
            try:
                cells = _next(reader)
            except csv.Error as error:
                bad(RowError(where, f"not a row of CSV ({error})", "cells between commas", reason="a line is no CSV"))
                continue
            if cells is None:
                return
            if cells and len(cells) != len(header):
                expected = f"{len(header)}, as in the header line"
                bad(RowError(where, f"the row has {len(cells)} cells", expected, reason="cells unlike the header"))
            elif cells:
                yield where, dict(zip(header, cells, strict=True))


def _tsv_rows(path: Path, bad: Bad) -> Iterator[Located]:
    return _csv_rows(path, bad, delimiter="\t")


def _header(reader: Any, path: Path) -> list[str]:
    try:
        names = [name.strip() for name in _next(reader) or []]
    except csv.Error as error:
        raise DataError(f"{path}:1: not a header line of CSV ({error})") from None
    if not any(names) or len(set(names)) != len(names):
        raise DataError(f"{path}:1: the first line must name the columns, each once; it is {names!r:.200}")
    return names


def _next(reader: Any) -> list[str] | None:
    """The next row, None at the end. The limit on cells is one for the whole process: raised for this call alone."""
    limit = csv.field_size_limit(MAX_ROW_BYTES)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _checked(file: Any, path: Path) -> Iterator[str]:
    """The lines; DataError for what is no text."""
    try:
        for number, line in enumerate(file, 1):
            if "\0" in line:
                raise DataError(f"{path}:{number}: it holds NUL characters, so it is no CSV file in UTF-8")
            yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save the file as UTF-8") from None


def _parquet_rows(path: Path, bad: Bad) -> Iterator[Located]:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        sentence = "Parquet is read by pyarrow, which is missing: `python -m pip install pyarrow` brings it"
        raise ImportError(f"{path}: {sentence}", name="pyarrow") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for place in range(batch.num_rows):  # one after the other: Python's objects are many times as large
                    number += 1
                    where, one = f"{path.name}:{number}", batch.slice(place, 1)
                    if one.nbytes > MAX_ROW_BYTES:
                        what = f"the row has {one.nbytes:,} bytes"
                        bad(RowError(where, what, f"at most {MAX_ROW_BYTES:,}", reason="too long"))
                        continue
                    yield where, one.to_pylist()[0]
    except DataError:
        raise
    except (ArrowException, OSError, ValueError) as error:  # damage shows as any of them, text that is no UTF-8 too
        raise DataError(f"{path}: after row {number}: not readable as Parquet ({str(error)[:200]})") from error


READERS: Mapping[str, Callable[[Path, Bad], Iterator[Located]]] = {
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".parquet": _parquet_rows,
    ".txt": _text_rows,
}
