"""Real signals to a real run: it is saved and goes on to the bit, whatever it did; a second one ends it at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llm_finetune import stop_on_signals

SCRIPT = """
import json, signal, sys, time
import torch
torch.set_num_threads(1)
import llm_blocks
from llm_finetune import Eval, Rows, Sample, Train, finetune, state, stop_on_signals
from llm_model_llama import llama

folder, when, wait = sys.argv[1], sys.argv[2], float(sys.argv[3])
config = llama.Config(vocab_size=61, dim=32, hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
                      max_positions=64)
model = llm_blocks.new_model(config, std=0.1, seed=4)
draw = torch.Generator().manual_seed(0)
rows = [Sample(ids=torch.randint(0, 61, (9,), generator=draw).tolist(), weights=[1.0] * 9) for _ in range(16)]
steps = 0

def reached(what):
    if what == when and steps >= 3:
        print(what, flush=True)
        end = time.monotonic() + wait
        while time.monotonic() < end:  # in pieces, as a signal that is only noted leaves a sleep to its end
            time.sleep(0.01)

def forward(module, inputs):
    reached("training" if module.training else "evaluating")

def count(event):
    global steps
    steps = max(steps, event.step)

model.mid["0"].register_forward_pre_hook(forward)
write = state.write_file

def slow(*what, **how):
    reached("saving")
    return write(*what, **how)

state.write_file = slow
before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
with stop_on_signals() as stop:
    run = finetune(model, Rows(train=rows, val=rows[:3]), out_dir=folder, resume="auto", stop=stop, on_event=count,
                   train=Train(epochs=4, global_batch_size=4, micro_batch_size=2, save_interval=2),
                   eval=Eval(interval=3))
assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
print(json.dumps({"interrupted": run.interrupted, "step": run.step, "checkpoint": str(run.checkpoint),
                  "final": None if run.final is None else str(run.final)}))
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def _start(folder: Path, when: str, wait: float = 0.4) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), when, str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _end(process: subprocess.Popen[str]) -> Any:
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert _end(_start(folder, "never"))["step"] == 16
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", ["training", "evaluating", "saving"])
def test_a_run_that_gets_a_signal_is_saved_and_goes_on_to_the_bit(
    tmp_path: Path, whole: Path, when: str, number: signal.Signals
) -> None:
    process = _start(tmp_path, when)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{when}\n"
    process.send_signal(number)
    said = _end(process)
    assert said["interrupted"] is True
    assert said["final"] is None
    assert 3 <= said["step"] < 16
    assert said["checkpoint"] == str(tmp_path / f"step-{said['step']:06d}")
    assert _end(_start(tmp_path, "never")) == {
        "interrupted": False,
        "step": 16,
        "checkpoint": str(tmp_path / "step-000016"),
        "final": str(tmp_path / "final"),
    }
    for file in ("final/model.safetensors", "step-000016/trained.safetensors", "step-000016/optimizer.safetensors"):
        assert (whole / file).read_bytes() == (tmp_path / file).read_bytes(), file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, number: signal.Signals) -> None:
    process = _start(tmp_path, "training", wait=50)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number
    assert _end(_start(tmp_path, "never"))["step"] == 16


def test_other_threads_are_told_that_they_cannot() -> None:
    said: list[str] = []

    def enter() -> None:
        try:
            with stop_on_signals():
                pass
        except ValueError as error:
            said.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert said == ["signals come to the main thread alone; call this there, or stop the run by a flag of your own"]
