"""`llm evaluate`: what it prints, where, and what it says of wrong commands and files."""

from __future__ import annotations

import io
import json
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_cli import LLM, demo_folder, perplexity
from llm_cli.app import run
from llm_cli.evaluation_table import as_dict, table
from llm_cli.measured_text import prepare

CARD = demo_folder() / "CARD.md"
FEW = ["--precision", "32-true", "--max_tokens", "300"]


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert run(["evaluate", "--perplexity", str(CARD), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_model_is_a_table_of_one_line(capsys: pytest.CaptureFixture[str]):
    assert run(["evaluate", "--perplexity", str(CARD), *FEW]) == 0
    told = capsys.readouterr()
    header, line = told.out.splitlines()
    assert header.split() == ["weights", "perplexity", "bits/byte", "tokens/s", "memory"]
    llm = LLM.load(distribute=None)
    llm.distribute(precision="32-true")
    found = perplexity(llm, CARD.read_text(), max_tokens=300).perplexity
    name, value, sign, error = line.split()[:4]
    assert (name, sign) == ("fp32", "±")
    assert float(value) == pytest.approx(found.perplexity, abs=found.perplexity_error / 10)
    assert float(error) == pytest.approx(found.perplexity_error, rel=0.05)
    assert line.endswith(" 15.1 MB")
    assert "300 tokens in windows of 1,024" in told.err


def test_a_quantized_model_is_compared_with_the_same_one_unquantized(capsys: pytest.CaptureFixture[str]):
    assert run(["evaluate", "--perplexity", str(CARD), *FEW, "--quantize", "int8"]) == 0
    header, base, line = capsys.readouterr().out.splitlines()
    assert base.startswith("fp32 (base)")
    assert line.startswith("int8 ")
    assert len(header) == len(base) == len(line)
    assert "KL mean" in header


def test_several_schemes_in_one_run_are_each_as_alone(capsys: pytest.CaptureFixture[str]):
    together = evaluated(capsys, *FEW, "--quantize", "none,int8,int4")
    assert [row["weights"] for row in together["results"]] == ["fp32", "int8", "int4 g64"]
    assert together["base"] == together["results"][0]
    assert together["tokens"] == 300
    quality = ("perplexity", "nll", "divergence", "weight_bytes", "bits_per_byte")
    for scheme, row in zip(("none", "int8", "int4"), together["results"], strict=True):
        alone = evaluated(capsys, *FEW, "--quantize", scheme)
        assert {name: alone["results"][0][name] for name in quality} == {name: row[name] for name in quality}
    means = [row["divergence"]["mean"] for row in together["results"][1:]]
    assert 0 < means[0] < means[1] / 20


def test_a_model_is_let_go_of_before_the_next_one_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    alive: list[int] = []
    models: list[weakref.ref] = []
    distribute = LLM.distribute

    def watched(llm: LLM, *arguments: Any, **options: Any) -> None:
        alive.append(sum(model() is not None for model in models))
        distribute(llm, *arguments, **options)
        models.append(weakref.ref(llm.model))

    monkeypatch.setattr(LLM, "distribute", watched)
    evaluated(capsys, *FEW, "--quantize", "int8,int4,none")
    assert alive == [0, 1, 1]  # int8, the base, int4


def test_a_checkpoint_without_tokenizer_needs_one(
    capsys: pytest.CaptureFixture[str], make_checkpoint: Callable[..., Path], instruct: Path
):
    folder = str(make_checkpoint(tokenizer=False))
    assert run(["evaluate", folder, "--perplexity", str(CARD), *FEW]) == 1
    assert "name one with --tokenizer_dir" in capsys.readouterr().err
    assert run(["evaluate", folder, "--perplexity", str(CARD), *FEW, "--tokenizer_dir", str(instruct)]) == 0
    assert capsys.readouterr().out.count("\n") == 2


def test_without_a_base_there_is_no_divergence(capsys: pytest.CaptureFixture[str]):
    found = evaluated(capsys, *FEW, "--quantize", "int8", "--against", "none")
    assert found["base"] is None
    assert found["results"][0]["divergence"] is None


def test_two_precisions_are_compared(capsys: pytest.CaptureFixture[str]):
    precisions = ["--precision", "bf16-true", "--against_precision", "32-true", "--max_tokens", "100"]
    found = evaluated(capsys, *precisions)
    assert (found["results"][0]["weights"], found["base"]["weights"]) == ("bf16", "fp32")
    assert 0 < found["results"][0]["divergence"]["mean"] < 0.01


def test_a_quantized_folder_is_measured_and_compared_with_its_source(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    folder = str(tmp_path / "demo-int4")
    assert run(["quantize", "demo", "--to", "int4", "--out", folder]) == 0
    capsys.readouterr()
    command = ["evaluate", folder, "--perplexity", str(CARD), "--json", *FEW]
    assert run(command) == 0
    told = capsys.readouterr()
    alone = json.loads(told.out)
    assert alone["base"] is None
    assert "the weights are quantized; --against CHECKPOINT" in told.err
    assert run([*command, "--against", "demo"]) == 0
    told = capsys.readouterr()
    compared = json.loads(told.out)
    assert "--against CHECKPOINT" not in told.err
    assert compared["results"][0]["perplexity"] == alone["results"][0]["perplexity"]
    assert compared["results"][0]["divergence"]["mean"] > 0
    assert compared["base"]["weights"] == "fp32"
    assert run([*command, "--quantize", "int8"]) == 1
    assert "are quantized already" in capsys.readouterr().err


def test_windows_strides_and_bos_are_those_of_the_options(capsys: pytest.CaptureFixture[str]):
    found = evaluated(capsys, *FEW, "--window", "64", "--stride", "32", "--bos", "false", "--batch-size", "3")
    assert (found["window"], found["stride"], found["prefix"], found["tokens"]) == (64, 32, [], 299)
    more = evaluated(capsys, *FEW, "--window", "64", "--stride", "16", "--bos", "true")
    assert (more["prefix"], more["tokens"]) == ([0], 300)
    assert more["results"][0]["nll"] < found["results"][0]["nll"]  # the more context, the better


def test_options_come_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LLM_PERPLEXITY", str(CARD))
    monkeypatch.setenv("LLM_WINDOW", "32")
    monkeypatch.setenv("LLM_MAX_TOKENS", "50")
    assert run(["evaluate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["window"], found["tokens"]) == (str(CARD), 32, 50)


def test_a_hyphen_reads_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfOnce upon a time.")))
    assert run(["evaluate", "--perplexity", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 17  # without the mark that begins some files


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "there is nothing to measure; name a text with --perplexity FILE"),
        (["--perplexity", "FILE", "--quantize", "int3"], 2, "there is no quantization 'int3'"),
        (["--perplexity", "FILE", "--quantize", ""], 2, "there is no quantization ''"),
        (["--perplexity", "FILE", "--window", "0"], 2, "window must be 1 or more, not 0"),
        (["--perplexity", "FILE", "--window", "8", "--stride", "9"], 2, "stride=9 is more than window=8"),
        (["--perplexity", "FILE", "--against", "none", "--against_precision", "32-true"], 2, "--against none leaves"),
        (["--perplexity", "FILE", "--windows", "3"], 2, "did you mean --window?"),
        (["--perplexity", "FILE", "--window", "2000"], 1, "window=2000 is more than the context of 1024"),
        (["--perplexity", "no-such-file"], 1, "cannot use 'no-such-file'"),
        (["--perplexity", "."], 1, "give a file, not a folder"),
        (["--perplexity", "FILE", "--against", "no-such-model"], 1, "there is no model 'no-such-model'"),
    ],
)
def test_wrong_commands(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, sentence: str):
    given = [str(CARD) if argument == "FILE" else argument for argument in arguments]
    assert run(["evaluate", *given]) == code
    told = capsys.readouterr()
    assert sentence in told.err
    assert not told.out


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; give a text to measure on"),
        (b" \n\t", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00", "is no text in UTF-8 (byte 0 is 0x89)"),
        ("Größe".encode("latin-1"), "is no text in UTF-8 (byte 2 is 0xf6)"),
        ("text".encode("utf-16"), "is no text in UTF-8 (byte 0 is 0xff)"),
        (b"MZ\x00\x01", "holds a NUL character at 2"),
    ],
)
def test_files_that_are_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, sentence: str):
    file = tmp_path / "file"
    file.write_bytes(content)
    assert run(["evaluate", "--perplexity", str(file)]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "error", "written"),
    [
        (1.40702, 0.00564, "1.4070 ± 0.0056"),
        (0.00079681, 0.0000046, "0.0007968 ± 0.0000046"),
        (108.798, 27.39, "109 ± 27"),
        (0.0, 0.0, "0.0000 ± 0.0000"),
        (math.inf, math.nan, "inf ± nan"),
    ],
)
def test_a_value_has_as_many_digits_as_its_error_allows(llm: LLM, value: float, error: float, written: str):
    found = perplexity(llm, "some text", against=llm)
    assert found.divergence is not None
    row = replace(found, divergence=replace(found.divergence, mean=value, standard_error=error))
    assert f" {written} " in table([row], found.base)


def test_infinity_is_null_in_json_and_readable_in_a_table(llm: LLM):
    found = perplexity(llm, "some text")
    found = replace(found, perplexity=replace(found.perplexity, nll=float("inf"), standard_error=float("nan")))
    row = as_dict(prepare(llm, "some text"), [found], None)["results"][0]
    assert (row["perplexity"], row["nll"], row["standard_error"]) == (None, None, None)
    assert "inf ± nan" in table([found], None)
