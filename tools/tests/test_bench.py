"""The benchmarks' own working: ratios and tables, processes that fail, and a run of the whole with a tiny model."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.insert(0, str(BENCH))  # these are scripts, of no package
common, contestant, generate, processes, running, tables = (
    import_module(name) for name in ("common", "contestant", "generate", "processes", "running", "tables")
)
sys.path.remove(str(BENCH))

CASE = tables.Case(100, 10)
READY = """
import json, sys, os, time
job = json.loads(sys.stdin.readline())
print(json.dumps({"weight_bytes": 1, "note": ""}), flush=True)
request = json.loads(sys.stdin.readline())
"""


def measured(*rounds: tuple[float, float, float]) -> Any:
    """Figures of a system with 1 GB of weights: seconds of prefill and decoding, GB/s of the read beside it."""
    figures = common.Figures()
    for prefill, decode, read in rounds:
        figures.add(CASE.figures(prefill, decode, 10**9, read * 1e9))
    return figures


def test_a_measurement_becomes_speeds_bytes_and_a_share_of_the_read_rate() -> None:
    figures = CASE.figures(prefill_s=0.5, decode_s=2.0, weight_bytes=3 * 10**9, read=20e9)
    assert list(figures.values()) == [200.0, 5.0, 15.0, 0.75]
    assert list(figures) == [f"100 + 10 tokens {name}" for name in ("prefill", "decode", "rate", "share")]


def test_ratios_are_medians_of_ratios_of_the_same_round() -> None:
    """A machine that slows down in one round leaves them as they are."""
    ours = measured((1, 1, 20), (10, 10, 2), (1, 1, 20))
    peer = measured((2, 4, 20), (20, 40, 2), (1, 4, 20))
    rows = [
        line.split("|")
        for line in tables.table(CASE, {("ours", "bf16"): ours, ("p", "bf16"): peer}, ("ours", "bf16")).splitlines()
    ]
    assert [cell.strip() for cell in rows[3][1:-1]] == [
        *("p", "bf16", "5.0–100.0", "0.50", "2.00", "0.2–2.5", "0.25", "4.00", "0.2–2.5", "12%")
    ]
    assert len(rows[0]) == len(rows[1]) == len(rows[2]) == len(rows[3])


def test_each_system_is_compared_with_ours_in_its_own_precision() -> None:
    keys = [("ours", "bf16"), ("ours", "int8"), ("peer", "int8"), ("peer", "int4")]
    table = tables.table(CASE, {key: measured((1, 2**i, 20)) for i, key in enumerate(keys)}, keys[0])
    cells = [[cell.strip() for cell in line.split("|")[7:9]] for line in table.splitlines()[2:]]
    assert cells == [["1.00", "1.00"], ["0.50", "1.00"], ["0.25", "2.00"], ["0.12", "–"]]


def test_ours_in_bf16_is_beside_every_precision_once() -> None:
    assert running.keys(["ours", "litgpt"], "bf16") == [("ours", "bf16"), ("litgpt", "bf16")]
    assert running.keys(["litgpt", "ours"], "int8") == [("ours", "bf16"), ("litgpt", "int8"), ("ours", "int8")]
    assert running.keys(["litgpt"], "int8") == [("litgpt", "int8")]


def test_systems_run_in_turn_and_one_that_fails_is_left_out_of_the_table(capsys: Any) -> None:
    order: list[str] = []

    def failing() -> dict[str, float]:
        order.append("b")
        if order.count("b") == 3:
            raise common.Gone("it broke")
        return {"x": 1.0}

    def steady() -> dict[str, float]:
        order.append("a")
        return {"x": float(len(order))}

    figures = common.in_turn({"a": steady, "b": failing}, rounds=3)
    assert "".join(order) == "baabbaa"
    assert {name: each.values["x"] for name, each in figures.items()} == {"a": [3.0, 6.0, 7.0]}
    assert [line for line in capsys.readouterr().err.splitlines() if "round" not in line] == ["left out: b: it broke"]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Starts a process that runs a script and has been told its job."""
    started = []

    def start(script: str) -> Any:
        each = processes.Worker([sys.executable, "-c", READY + script], tmp_path / "log")
        started.append(each)
        assert each.ask({}, 60) == {"weight_bytes": 1, "note": ""}
        return each

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize(
    ("script", "patience", "reason"),
    [
        ("sys.exit('no memory')", 60, "it ended with 1: no memory"),
        ("os.kill(os.getpid(), 11)", 60, "it died of SIGSEGV"),
        ("time.sleep(100)", 0.5, "it gave no answer in 0.5 s"),
        ("os.write(1, b'half'); time.sleep(100)", 0.5, "it gave no answer in 0.5 s"),
        ("os.write(1, b'[1]\\n'); time.sleep(100)", 60, "it answered b'[1]', which is no JSON object"),
        ("os.write(1, b'{\\n'); time.sleep(100)", 60, "it answered b'{', which is no JSON object"),
        ("os.write(1, b'\\xff\\xfe\\n'); time.sleep(100)", 60, "which is no JSON object"),
        ("os.write(1, b'[' * 60000 + b'\\n'); time.sleep(100)", 60, "which is no JSON object"),
        ("os.write(1, b'x' * 200000); time.sleep(100)", 60, "it answered more than 65536 bytes without an end"),
    ],
)
def test_a_process_that_fails_is_told_and_ended(script: str, patience: float, reason: str, worker: Any) -> None:
    each, start = worker(script), time.monotonic()
    with pytest.raises(common.Gone) as gone:
        each.ask({}, patience)
    assert reason in str(gone.value)
    assert time.monotonic() - start < 60
    with pytest.raises(common.Gone):
        each.ask({}, 60)  # it is gone for good, and says so at once
    with pytest.raises(ChildProcessError):
        os.waitpid(each._process.pid, os.WNOHANG)  # nothing is left of it


def test_the_children_of_a_process_end_with_it(worker: Any) -> None:
    script = (
        "import subprocess as s; print(json.dumps({'pid': s.Popen(['sleep', '100']).pid}), flush=True); time.sleep(99)"
    )
    each = worker(script)
    child = each.ask({}, 60)["pid"]
    with pytest.raises(common.Gone):
        each.ask({}, 0.1)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"prefill_s": "1"},
        {"prefill_s": -1},
        {"prefill_s": None},
        {"prefill_s": float("nan")},
        {"prefill_s": float("inf")},
    ],
)
def test_answers_that_are_no_measurements_are_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(common.Gone, match="which is no measurement"):
        running.checked(answer, "prefill_s")


def test_a_measurement_times_the_first_token_and_the_others_apart() -> None:
    def system(ids: list[int], new: int, tick: Callable[[int], None]) -> None:
        time.sleep(0.02)
        for each in range(new):
            tick(ids[0] + each)

    told = contestant.measure(system, prompt=5, new=3, vocab=50, seed=1)
    assert told["prefill_s"] >= 0.02 > told["decode_s"] > 0
    assert told["first"] == contestant.measure(system, prompt=5, new=1, vocab=50, seed=1)["first"]  # the same prompt


def test_a_system_that_stops_early_is_not_measured() -> None:
    with pytest.raises(RuntimeError, match="2 tokens instead of 4"):
        contestant.measure(lambda ids, new, tick: [tick(1), tick(2)], prompt=5, new=3, vocab=50, seed=1)


def job(tmp_path: Path, system: str, precision: str) -> dict[str, Any]:
    names = ("folder", "scratch", "python", "tokenizer")
    numbers = {"threads": 1, "positions": 64}
    return {"system": system, "precision": precision, **dict.fromkeys(names, str(tmp_path)), **numbers}


@pytest.mark.parametrize(
    ("system", "precision", "why"),
    [
        ("gpt-fast", "bf16", "no clone of it: give its path with --gpt_fast"),
        pytest.param(
            *("litgpt", "bf16", "litgpt not installed"),
            marks=pytest.mark.skipif(find_spec("litgpt") is not None, reason="litgpt is installed"),
        ),
        ("transformers", "int8", "no int8 of its own on a CPU"),
    ],
)
def test_a_system_that_is_not_here_says_why(system: str, precision: str, why: str, tmp_path: Path) -> None:
    with processes.Worker([sys.executable, str(BENCH / "contestant.py")], tmp_path / "log") as each:
        assert each.ask(job(tmp_path, system, precision), 60) == {"unavailable": why}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="the call is Linux's on x86-64")
def test_amx_is_refused_and_nothing_else() -> None:
    script = (
        "import ctypes, peers.amx as amx; call = ctypes.CDLL(None, use_errno=True).syscall\n"
        "assert amx.refuse()\n"
        "state = ctypes.c_uint64()\n"
        "print(call(158, 0x1023, 18), ctypes.get_errno(), call(158, 0x1021, ctypes.byref(state)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCH, capture_output=True, text=True, check=True)
    refused, error, supported = map(int, done.stdout.split())
    assert (refused, error) == (-1, 1)
    assert supported == ctypes.CDLL(None).syscall(158, 0x1021, ctypes.byref(ctypes.c_uint64()))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--systems", "ours,vllm"], "there is no 'vllm'; there are ours, transformers"),
        (["--precision", "int3"], "there is no 'int3'"),
        (["--rounds", "0"], "'0' is no number from 1 up"),
        (["--prompt", "128,"], "'' is no number from 1 up"),
        (["--python", "litgpt=/nowhere/python"], "is not SYSTEM=PYTHON"),
    ],
)
def test_options_that_make_no_sense_are_refused(argv: list[str], reason: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        generate.parser().parse_args(argv)
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_model_goes_through_ours_and_transformers(tmp_path: Path) -> None:
    """They get the same weights: the tokens after the prompts are the same."""
    options = [
        "--shape",
        "tiny",
        "--systems",
        "ours,transformers,gpt-fast",
        "--precision",
        "fp32",
        "--scratch",
        tmp_path,
    ]
    command = [sys.executable, BENCH / "generate.py", *options, "--prompt", "16,24", "--new", "3", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "left out: gpt-fast fp32: no clone of it: give its path with --gpt_fast" in done.stderr.splitlines()
    rows = [line for line in done.stdout.splitlines() if line.startswith("| transformers | fp32 |")]
    assert len(rows) == 2
    assert [line for line in done.stdout.splitlines() if "4 of 4 first tokens as ours bf16" in line]


@pytest.mark.slow
def test_a_tiny_model_is_finetuned_by_ours_and_peft(tmp_path: Path) -> None:
    """From the same weights on the same rows: their first losses are the same."""
    options = ["--shape", "tiny", "--batch", "2", "--length", "16", "--steps", "2", "--rounds", "1", "--threads", "1"]
    command = [sys.executable, BENCH / "finetune.py", *options, "--precision", "fp32,nf4", "--scratch", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "left out: litgpt fp32: lightning isn't installed" in done.stderr.splitlines()
    notes = [line for line in done.stdout.splitlines() if line.startswith("- ")]
    assert [note.partition(":")[0] for note in notes] == ["- ours", "- peft", "- ours"]
    ours, peft, quantized = (float(note.partition("; loss ")[2].partition(",")[0]) for note in notes)
    assert ours == pytest.approx(peft, abs=2e-4)
    assert quantized == pytest.approx(peft, abs=0.1)
    tables = [line for line in done.stdout.splitlines() if line.startswith("| ours |")]
    assert len(tables) == 2


@pytest.mark.slow
def test_the_gpu_table_on_a_cpu() -> None:
    """Every line is there, with numbers; what it says of speed means nothing here."""
    options = ["--device", "cpu", "--shape", "tiny", "--draft", "tiny", "--compiler", "none", "--rounds", "1"]
    command = [sys.executable, BENCH / "gpu.py", *options, "--prompt", "20", "--new", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:2] == "| "]
    lines = [("baseline", "bf16"), ("ours", "bf16"), ("baseline", "int8"), ("ours", "int8"), ("baseline", "int4")]
    assert [tuple(row[:2]) for row in rows[1:]] == [*lines, ("ours", "int4")]
    assert all(float(row[3].split("–")[0].replace(",", "")) > 0 and float(row[7]) > 0 for row in rows[1:])
    assert "of the proposals are right" in done.stdout
    assert "left out" not in done.stdout


def test_the_gpu_table_names_what_there_was_no_time_for() -> None:
    options = ["--device", "cpu", "--shape", "tiny", "--draft", "", "--compiler", "none", "--precision", "int8"]
    command = [sys.executable, BENCH / "gpu.py", *options, "--budget", "-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "left out: baseline int8: no time was left" in done.stdout
    assert "left out: ours int8: no time was left" in done.stdout


def test_the_baseline_on_a_gpu_is_a_llama() -> None:
    """It leaves nothing out: with the same weights it gives the project's logits."""
    script = """
import torch, gpu, gpu_systems
from plain_llama import PlainLlama
from shapes import SHAPES
cpu = torch.device("cpu")
ours, plain = gpu_systems.random_model("tiny", cpu), PlainLlama(SHAPES["tiny"], 64, "bf16", cpu, gpu.THETA)
plain.table, plain.head.weight = ours.begin.embed.weight.data, ours.end.head.weight.data
for a, b in zip(ours.mid.values(), plain.layers):
    b.qkv.weight = torch.cat([each.weight.data for each in (a.attention.q, a.attention.k, a.attention.v)])
    b.out.weight = a.attention.o.weight.data
    b.gate.weight, b.up.weight, b.down.weight = (each.weight.data for each in (a.mlp.gate, a.mlp.up, a.mlp.down))
ours.float(), plain.float()
ids = torch.randint(0, 4096, (12,))
wanted = ours(ids[None])[0]
with torch.inference_mode():
    found = [plain(ids[:10], torch.arange(10)), *(plain(ids[i : i + 1], torch.tensor([i])) for i in (10, 11))]
torch.testing.assert_close(torch.stack(found), wanted[9:], rtol=1e-4, atol=1e-5)
print(plain.bytes_read() - sum(p.nbytes for n, p in ours.named_parameters() if not n.startswith("begin")))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=BENCH, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 0


def test_packages_that_are_not_installed_are_used_in_place(tmp_path: Path) -> None:
    """As on a machine without pip: the interpreter sees all that is installed here but the family."""
    site = Path(find_spec("torch").origin).parents[1]  # type: ignore[union-attr, arg-type]
    for entry in site.iterdir():
        if not entry.name.startswith(("llm_", "_editable", "__editable")) and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    script = "import in_place; in_place.use(); import llm_blocks; print(llm_blocks.find('llama').__name__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-S", "-c", script]
    done = subprocess.run(command, cwd=BENCH, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("llm_model_llama.llama\n", "")
