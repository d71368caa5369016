"""Rows of every kind of file, each with the line that it begins in."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from llm_finetune import files, json_rows
from llm_finetune.files import data_files, read_file
from llm_finetune.row_kinds import read_row
from llm_finetune.rows import Conversation, DataError, RowError, Text


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


A, B = {"text": "ä"}, {"text": "b\n"}
LINES = '{"text": "ä"}\n\n{"text": "b\\n"}\n'
SAME: list[tuple[str, str | bytes, list[int]]] = [
    ("x.json", '[\n{"text": "ä"},\n\n{"text": "b\\n"}\n]', [2, 4]),
    ("x.json", '[{"text": "ä"}, {"text": "b\\n"}]', [1, 1]),
    ("x.json", '{"version": [1],\n "data": [\n{"text": "ä"},\n{"text": "b\\n"}], "more": {}}', [3, 4]),
    ("x.json", LINES, [1, 3]),
    ("x.json", '{\n"text": "ä"}\n{"text":\n "b\\n"}', [1, 3]),
    ("x.jsonl", LINES, [1, 3]),
    ("x.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode(), [1, 3]),
    ("x.ndjson", LINES.rstrip(), [1, 3]),
    ("x.csv", 'text\nä\n"b\n"\n', [2, 3]),
    ("x.csv", b"\xef\xbb\xbf" + 'text\r\n\r\nä\r\n"b\n"'.encode(), [3, 4]),
]


@pytest.mark.parametrize(("name", "data", "lines"), SAME)
def test_the_same_rows_from_each_format(tmp_path: Path, name: str, data: str | bytes, lines: list[int]) -> None:
    path = write(tmp_path, name, data)
    assert list(read_file(path)) == [(f"{name}:{line}", row) for line, row in zip(lines, (A, B), strict=True)]


def test_a_table_with_tabs_and_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "x.tsv", 'instruction\toutput\nsay "hi"\t"a\tb ""c"""\n')
    with pytest.raises(RowError, match=r"x\.tsv:2: not a row of CSV"):
        list(read_file(write(tmp_path, "y/x.tsv", 'a\tb\n"x"y\t1\n')))
    assert [row for _, row in read_file(path)] == [{"instruction": 'say "hi"', "output": 'a\tb "c"'}]


def test_text_is_one_row(tmp_path: Path) -> None:
    assert list(read_file(write(tmp_path, "x.txt", "a\r\nb\n"))) == [("x.txt:1", {"text": "a\nb\n"})]
    assert list(read_file(write(tmp_path, "y.txt", " \n"))) == []


def test_parquet(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": str(i)}], "n": None} for i in range(3000)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = list(read_file(tmp_path / "x.parquet"))
    assert [row for _, row in found] == rows
    assert found[2999][0] == "x.parquet:3000"
    with pytest.raises(DataError, match="not readable as Parquet"):
        list(read_file(write(tmp_path, "y.parquet", (tmp_path / "x.parquet").read_bytes()[:-100])))


BAD_ROWS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("x.jsonl", '{"text": "a"}\n{"text": \n{"text": "b"}\n', [("x.jsonl:2", "a line is no JSON")]),
    ("x.jsonl", '{"text": "a"}\n{"text": NaN}\n{"text": "b"}\n', [("x.jsonl:2", "a line is no JSON")]),
    ("x.jsonl", '{"text": "a"}\n{"a": 1, "a": 2}\n{"text": "b"}\n', [("x.jsonl:2", "a line is no JSON")]),
    ("x.jsonl", '{"text": "a"}\n' + 100_000 * "[" + '\n{"text": "b"}', [("x.jsonl:2", "a line is no JSON")]),
    ("x.csv", "text\na\nc,d\nb\n", [("x.csv:3", "cells unlike the header")]),
    ("x.csv", 'text\na\n"c"d\nb\n', [("x.csv:3", "a line is no CSV")]),
]


@pytest.mark.parametrize(("name", "data", "expected"), BAD_ROWS)
def test_a_bad_row_is_named_and_can_be_left_out(
    tmp_path: Path, name: str, data: str, expected: list[tuple[str, str]]
) -> None:
    path, bad = write(tmp_path, name, data), []
    assert [row for _, row in read_file(path, bad.append)] == [{"text": "a"}, {"text": "b"}]
    assert [(error.where, error.reason) for error in bad] == expected
    with pytest.raises(RowError, match=f"^{expected[0][0]}: "):
        list(read_file(path))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_a_row_over_the_limit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr("llm_finetune.files.MAX_ROW_BYTES", 100)
    texts = ["a", 500 * "b", "c"]
    if name == "x.csv":
        data = "text\n" + "\n".join(texts)
    else:
        data = "\n".join(json.dumps({"text": text}) for text in texts)
    before, bad = csv.field_size_limit(), []
    rows = [row for _, row in read_file(write(tmp_path, name, data), bad.append)]
    assert rows == [{"text": "a"}, {"text": "c"}]
    assert [error.where for error in bad] == [f"{name}:{3 if name == 'x.csv' else 2}"]
    assert csv.field_size_limit() == before


BAD_FILES: list[tuple[str, str | bytes, str]] = [
    ("x.json", '[{"text": "a"}', "isn't closed"),
    ("x.json", '[{"text": "a"},\n', "isn't closed"),
    ("x.json", '[{"text": "a"},\n{"text": }]', r"x\.json:2: not valid JSON"),
    ("x.json", '[{"text": "a"}\n{"text": "b"}]', r"x\.json:2: after a row comes a comma"),
    ("x.json", '[\n{"a": 1, "a": 2}]', r"x\.json:2: .*twice"),
    ("x.json", "[" * 100_000, "nested too deeply"),
    ("x.json", "", "begins with"),
    ("x.json", '"text"', "begins with"),
    ("x.json", b"\xff\xfe[\x00]\x00", "is not UTF-8"),
    ("x.csv", "a\0b\n1\n", "NUL"),
    ("x.csv", b"text\n\xe4\n", "not UTF-8"),
    ("x.csv", "a,a\n1,2\n", "each once"),
    ("x.csv", "", "name the columns"),
    ("x.txt", "a\0b", "NUL"),
    ("x.pdf", "x", r"data is read from \.json"),
    ("x.jsonl", "version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES)
def test_a_file_that_cant_be_read(tmp_path: Path, name: str, data: str | bytes, message: str) -> None:
    path = write(tmp_path, name, data)
    with pytest.raises(DataError, match=message):
        list(read_file(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        read_file(tmp_path / "none.json")


ROWS = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=9) | st.integers() | st.lists(st.booleans())))


@given(rows=ROWS, indent=st.sampled_from([None, 2]), ascii=st.booleans(), inner=st.booleans())
def test_any_rows_come_back_from_json(
    tmp_path_factory: pytest.TempPathFactory, rows: list, indent: int | None, ascii: bool, inner: bool
) -> None:
    folder = tmp_path_factory.mktemp("json")
    text = json.dumps({"n": [{}], "data": rows} if inner else rows, indent=indent, ensure_ascii=ascii)
    assert [row for _, row in read_file(write(folder, "x.json", text))] == rows
    lines = "".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows)
    found = list(read_file(write(folder, "x.jsonl", lines)))
    assert found == [(f"x.jsonl:{i}", row) for i, row in enumerate(rows, 1)]


@given(cells=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9))))
def test_any_cells_come_back_from_csv(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]) -> None:
    cells = [(a.replace("\0", ""), b.replace("\0", "")) for a, b in cells]
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *cells])
    assert [row for _, row in read_file(path)] == [{"a": a, "b": b} for a, b in cells]


def names(found: tuple[list[Path], list[Path]]) -> list[list[str]]:
    return [[path.name for path in paths] for paths in found]


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "notes.md", ".hidden.json", "deeper/training.txt"):
        write(tmp_path, name, "x")
    assert names(data_files(tmp_path)) == [["a.csv", "b.jsonl", "training.txt"], []]
    assert names(data_files(tmp_path / "a.csv")) == [["a.csv"], []]
    for name in ("train-00000-of-00001.parquet", "Validation.json", "test_1.json", "train/c.json"):
        write(tmp_path, name, "x")
    assert names(data_files(tmp_path)) == [["c.json", "train-00000-of-00001.parquet"], ["Validation.json"]]


def test_a_folder_without_training_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data here"):
        data_files(tmp_path)
    write(tmp_path, "val.json", "x")
    with pytest.raises(DataError, match=r"it has val\.json and no file called train"):
        data_files(tmp_path)


def test_nested_messages_of_parquet_are_rows(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": messages, "text": None}, {"messages": None, "text": "a story"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    found = [read_row(row, where) for where, row in read_file(tmp_path / "x.parquet")]
    assert isinstance(found[0], Conversation)
    assert [(turn.role, turn.content) for turn in found[0].turns] == [("user", "a"), ("assistant", "b")]
    assert found[1] == Text(text="a story")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pyarrow.array([1, 2]), "'text' is a int"),
        (pyarrow.array([b"\xff", b"a"]), "'text' is a bytes"),
        (pyarrow.array([["a"], ["b"]]), "'text' is a list"),
        (pyarrow.array([1.5, float("nan")]), "'text' is a float"),
    ],
)
def test_wrong_types_of_parquet_are_named(tmp_path: Path, column: Any, message: str) -> None:
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "x.parquet")
    where, row = next(iter(read_file(tmp_path / "x.parquet")))
    with pytest.raises(RowError, match=f"x.parquet:1: {message}"):
        read_row(row, where)


@pytest.mark.parametrize("place", range(1, 12))
def test_parquet_with_hostile_bytes_at_its_end_is_refused(tmp_path: Path, place: int) -> None:
    """The last eight bytes are the size of what describes the file, and a mark."""
    parquet.write_table(pyarrow.table({"text": ["a"] * 9}), tmp_path / "x.parquet")
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    data[-place] = 0xFF
    with pytest.raises(DataError, match="not readable as Parquet"):
        list(read_file(write(tmp_path, "y.parquet", bytes(data))))


def test_a_row_of_parquet_over_the_limit_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 100)
    table = pyarrow.table({"text": ["a", "b" * 101, "c"]})
    parquet.write_table(table, tmp_path / "x.parquet")
    bad: list[RowError] = []
    assert [row for _, row in read_file(tmp_path / "x.parquet", bad.append)] == [{"text": "a"}, {"text": "c"}]
    assert "x.parquet:2" in str(bad[0])
