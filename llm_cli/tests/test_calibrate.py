"""`llm quantize --calibrate`: the folder, the report, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
import llm_quant
from llm_cli import app, calibrating
from llm_cli.calibration_text import cut, read_ids
from llm_tokenizer import Tokenizer

TEXT = "Once upon a time there was a llama. It ate grass, and it was glad that it did so. " * 20


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(TEXT)
    return file


def quantize(source: Path, out: Path, *options: object) -> Path:
    assert app.run(["quantize", str(source), "--to", "int4", "--out", str(out), *map(str, options)]) == 0
    return out


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("tied", [False, True])
def test_section_by_section_is_what_the_whole_model_gives_in_memory(
    make_checkpoint: Callable[..., Path], text: Path, tmp_path: Path, method: Any, tied: bool
) -> None:
    source = make_checkpoint(tie_word_embeddings=tied, dtype=torch.bfloat16)
    options = ["--calibrate", text, "--method", method, "--samples", 5, "--length", 24, "--group_size", 16]
    stored = llm_blocks.load(quantize(source, tmp_path / "out", *options, "--skip", "*.1.*.q_proj"))
    model = llm_blocks.load(source, dtype=torch.float32)
    ids = cut(read_ids(text, Tokenizer.load(source), vocab_size=264), samples=5, length=24, report=False, prefix=[]).ids
    skip = ["mid.1.attention.q", *["end.head"] * tied]
    errors = llm_quant.calibrate(model, list(ids[:, None]), method=method, group_size=16, skip=skip)
    assert len(errors) == 14 - tied
    for name in errors:
        found, wanted = stored.get_submodule(name).weight, model.get_submodule(name).weight
        assert all(torch.equal(getattr(found, key), tensor) for key, tensor in vars(wanted).items()), name
    assert type(stored.mid["1"].attention.q) is torch.nn.Linear


def test_the_command_and_its_report(instruct: Path, text: Path, tmp_path: Path, capsys: Any) -> None:
    options = ["--calibrate", text, "--samples", "6", "--length", "32"]
    out = quantize(instruct, tmp_path / "out", *options, "--report", tmp_path / "report.txt")
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out)]
    assert "by gptq with 6 samples of 32 tokens: outputs of layers err by " in said.err
    report = (tmp_path / "report.txt").read_text()
    assert report.startswith("int4, groups of 32 (compressed-tensors), by gptq with 6 samples of 32 tokens of ")
    table = {line.split("  ")[0]: line.split() for line in reversed(report.splitlines())}
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"):
        nearest, calibrated = (float(cell.rstrip("%")) for cell in table[name][1:])
        assert 0 < calibrated < nearest < 20
    assert "By what is quantized, on held-out text (1 x 32 tokens):" in report
    assert float(table["nothing"][2]) == 0 < min(float(table[row][-1]) for row in ("layer 0", "the head", "all"))
    assert app.run(["generate", str(out), "--prompt", "Once", "--max_new_tokens", "3"]) == 0
    capsys.readouterr()
    quantize(instruct, tmp_path / "other", *options, "--report", "-")
    printed = capsys.readouterr().out
    assert printed.splitlines()[1:] == [*report.splitlines()[1:], "", str(tmp_path / "other")]
    one, two = ((each / "model.safetensors").read_bytes() for each in (out, tmp_path / "other"))
    assert one == two


def test_json_has_the_figures(instruct: Path, text: Path, tmp_path: Path, capsys: Any) -> None:
    options = ["--calibrate", text, "--samples", "6", "--length", "32", "--json"]
    quantize(instruct, tmp_path / "a", *options, "--report", tmp_path / "report")
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert (found["method"], found["samples"], found["length"]) == ("gptq", 6, 32)
    assert len(found["errors"]) == 15
    assert set(found["quality"]) == {"nothing", "layer 0", "layer 1", "the head", "all, to the nearest", "all"}
    quantize(instruct, tmp_path / "b", *options)
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert "quality" not in found
    assert app.run(["quantize", str(instruct), "--to", "int8", "--out", str(tmp_path / "c"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"] is None


def test_the_report_says_what_the_models_do(instruct: Path, text: Path, tmp_path: Path, capsys: Any) -> None:
    """Perplexities and divergences, computed anew from whole models with and without quantized layers."""
    options = ["--calibrate", text, "--samples", "6", "--length", "32", "--json", "--report", tmp_path / "report"]
    out = quantize(instruct, tmp_path / "out", *options)
    found = json.loads(capsys.readouterr().out)["calibration"]["quality"]
    ids = cut(
        read_ids(text, Tokenizer.load(instruct), vocab_size=264), samples=6, length=32, report=True, prefix=[]
    ).held
    plain, whole = llm_blocks.load(instruct), llm_blocks.load(out)
    nearest = llm_quant.quantize(llm_blocks.load(instruct), "int4", group_size=32)
    first = llm_blocks.load(instruct)
    first.mid["0"] = whole.mid["0"]
    for name, model in {"nothing": plain, "all": whole, "all, to the nearest": nearest, "layer 0": first}.items():
        with torch.no_grad():
            log_p, wanted = (each(ids)[0].log_softmax(-1) for each in (model, plain))
        loss = torch.nn.functional.nll_loss(log_p[:-1], ids[0, 1:])
        divergence = (wanted.exp() * (wanted - log_p)).sum(1).mean()
        assert found[name]["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-4)
        assert found[name]["divergence"] == pytest.approx(divergence.item(), rel=1e-2, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--to", "int8", "--calibrate", "{text}"], "int8 is nearly exact without calibration"),
        (["--to", "int4", "--method", "awq"], "--method is for calibration; add --calibrate FILE"),
        (["--to", "int4", "--report", "-"], "--report is for calibration; add --calibrate FILE"),
        (["--to", "int4", "--calibrate", "{text}", "--samples", "0"], "--samples must be at least 1, not 0"),
        (["--to", "int4", "--calibrate", "{text}", "--length", "1"], "--length must be from 2 to 128"),
        (["--to", "int4", "--calibrate", "{text}", "--length", "129"], "--length must be from 2 to 128"),
        (["--to", "int4", "--calibrate", "{text}", "--method", "hqq"], "hqq"),
        (["--to", "int4", "--calibrate", "{text}", "--report", "-", "--json"], "--report - or for --json"),
        (["--to", "int4", "--calibrate", "{text}", "--report", "{text}"], "exists already and isn't overwritten"),
        (["--to", "int4", "--calibrate", "{text}", "--report", "{text}.d/x"], "there is no folder"),
    ],
)
def test_wrong_usage(instruct: Path, text: Path, tmp_path: Path, capsys: Any, options: list[str], rule: str) -> None:
    options = [word.replace("{text}", str(text)) for word in options]
    assert app.run(["quantize", str(instruct), *options, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert rule in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "is empty; give a text"),
        (b" \n\n", "is empty; give a text"),
        (b"\xff\xfe\x00model", "is no text in UTF-8"),
        (b"PK\x03\x04\x00\x00", "is no text in UTF-8"),
        (b"too short", "the text has 9 tokens, too few for a sample of 64 and another for the report"),
        (b"x" * 100, "the text has 100 tokens, too few for a sample of 64 and another for the report"),
        (None, "No such file"),
    ],
)
def test_files_that_cannot_serve(instruct: Path, tmp_path: Path, capsys: Any, content: bytes | None, rule: str) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    options = ["--calibrate", str(tmp_path / "text"), "--length", "64", "--report", "-"]
    assert app.run(["quantize", str(instruct), "--to", "int4", "--out", str(tmp_path / "out"), *options]) == 1
    said = capsys.readouterr()
    assert rule.lower() in said.err.lower()
    assert len(said.err.splitlines()) == 1
    assert not said.out
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_tokenizer(
    make_checkpoint: Callable[..., Path], text: Path, tmp_path: Path, capsys: Any
) -> None:
    source = make_checkpoint(tokenizer=False)
    options = ["--calibrate", str(text), "--out", str(tmp_path / "out")]
    assert app.run(["quantize", str(source), "--to", "int4", *options]) == 1
    assert "has no tokenizer, which --calibrate needs" in capsys.readouterr().err


def test_a_tokenizer_of_another_model(instruct: Path, text: Path) -> None:
    with pytest.raises(ValueError, match=r"makes the id \d+ of .* but this model knows the ids 0 to 99"):
        read_ids(text, Tokenizer.load(instruct), vocab_size=100)


def test_an_interrupted_run_leaves_nothing(
    instruct: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = calibrating.Calibration._section, []

    def section(self: Any, part: str) -> Any:
        seen.append(part)
        if part == "1-2":
            raise KeyboardInterrupt
        return plain(self, part)

    monkeypatch.setattr(calibrating.Calibration, "_section", section)
    options = ["--calibrate", str(text), "--length", "32", "--report", str(tmp_path / "report")]
    assert app.run(["quantize", str(instruct), "--to", "int4", "--out", str(tmp_path / "out"), *options]) == 130
    assert seen == ["b", "0-1", "1-2"]
    assert list(tmp_path.iterdir()) == []


def test_samples_are_spread_over_the_text_and_none_is_in_both() -> None:
    ids = list(range(1000))
    found = cut(ids, samples=64, length=10, report=True, prefix=[])
    assert (found.ids.shape, found.held.shape) == ((64, 10), (2, 10))
    starts = found.ids[:, 0].tolist()
    assert not set(starts) & set(found.held[:, 0].tolist())
    assert starts == sorted(starts)
    assert min(starts) < 50
    assert max(starts) > 950
    assert cut(ids, samples=3, length=10, report=False, prefix=[]).held.shape == (0, 10)
    assert cut(ids[:25], samples=3, length=10, report=True, prefix=[]).ids.shape == (1, 10)
    assert cut(ids, samples=500, length=10, report=True, prefix=[]).held.size(0) == 15


def test_each_sample_begins_as_a_text_does() -> None:
    found = cut(list(range(10, 50)), samples=4, length=10, report=False, prefix=[1, 2])
    assert found.ids[:, :2].tolist() == [[1, 2]] * 4
    assert found.ids[0].tolist() == [1, 2, *range(10, 18)]
    with pytest.raises(ValueError, match="samples of 2 tokens have no room for text; give a larger --length"):
        cut(list(range(50)), samples=4, length=2, report=False, prefix=[1, 2])


MEMORY = """
import sys, threading, time
from pathlib import Path
from llm_cli import app, calibrating
import llm_quant.formats, llm_blocks.quantized, llm_cli.calibration_command

def own():  # memory but for the pages of files, which the system takes back as it likes
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))

seen, done = [own()], threading.Event()
def watch():
    while not done.is_set():
        seen.append(own())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
assert app.run(["quantize", sys.argv[1], "--to", "int4", "--out", sys.argv[2], *sys.argv[3:]]) == 0
done.set()
watcher.join()
print(max(seen) - seen[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory in use is read from /proc")
def test_a_section_is_in_memory_at_a_time(make_checkpoint: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    """The model has 114 MB in fp32, each of its layers 9; the int4 that waits to be written has 16."""
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12}
    source = make_checkpoint(**shape)
    stored = (source / "model.safetensors").stat().st_size
    options = ["--calibrate", str(text), "--samples", "4", "--length", "64"]
    command = [sys.executable, "-c", MEMORY, str(source), str(tmp_path / "out"), *options]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert stored > 110e6
    assert peak < 0.6 * stored
