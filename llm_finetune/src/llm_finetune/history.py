"""The numbers of a run as a CSV file, a line for each step that is logged or evaluated."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from llm_sepweight.atomic import atomic_file

NAME = "metrics.csv"
COLUMNS = ("step", "epoch", "loss", "val_loss", "learning_rate", "norm", "tokens", "trained_tokens", "seconds")
Row = Mapping[str, float]


class History:
    """The rows so far, also in `folder`/metrics.csv where there is a folder; a line is on disk when `add` returns."""

    def __init__(self, folder: Path | None) -> None:
        self.rows: list[Row] = []
        self._path = None if folder is None else folder / NAME

    def add(self, row: Row) -> None:
        """One more row, whose step is above that of the one before."""
        self.rows.append(row)
        if self._path is not None:
            new = not self._path.exists()
            with self._path.open("a", newline="") as file:
                file.write((_line(dict(zip(COLUMNS, COLUMNS, strict=True))) if new else "") + _line(row))

    def cut(self, step: int) -> None:
        """Take up what the file has up to a step, and nothing after it: the run goes on there."""
        if self._path is None or not self._path.exists():
            return
        with self._path.open(newline="") as file:
            kept = [_numbers(row) for row in csv.DictReader(file) if _complete(row)]
        self.rows = [row for row in kept if row["step"] <= step]
        text = _line(dict(zip(COLUMNS, COLUMNS, strict=True))) + "".join(map(_line, self.rows))
        with atomic_file(self._path, overwrite=True) as file:
            file.write(text.encode())


def _line(row: Mapping[str, object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([row.get(name, "") for name in COLUMNS])
    return text.getvalue()


def _complete(row: Mapping[str, str | None]) -> bool:
    """Whether a line was written to its end before the process was."""
    return None not in row.values() and bool(row.get("seconds"))


def _numbers(row: Mapping[str, str]) -> Row:
    return {name: int(value) if value.isdigit() else float(value) for name, value in row.items() if value != ""}
