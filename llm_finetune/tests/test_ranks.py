"""Two processes train as one does: losses, weights, evaluation and checkpoints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

SCRIPT = """
import os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
import json
import llm_blocks
from llm_finetune import Eval, Rows, Sample, Train, finetune
from llm_model_llama import llama
if int(os.environ.get("WORLD_SIZE", 1)) > 1:
    dist.init_process_group("gloo")
config = llama.Config(vocab_size=61, dim=32, hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
                      max_positions=64)
model = llm_blocks.new_model(config, std=0.1, seed=4)
draw = torch.Generator().manual_seed(0)
def row(number):
    n = int(torch.randint(3, 20, (), generator=draw))
    start = n if number % 4 == 3 else 1 + number % 2
    return Sample(ids=torch.randint(0, 61, (n,), generator=draw).tolist(), weights=[0.0] * start + [1.0] * (n - start))
rows = Rows(train=[row(number) for number in range(17)], val=[row(0)])
left = iter(range(int(sys.argv[3]) - 1))
run = finetune(model, rows, out_dir=sys.argv[1], resume="auto", stop=lambda: next(left, None) is None,
               train=Train(epochs=3, global_batch_size=8, micro_batch_size=int(sys.argv[2]), save_interval=2,
                           max_norm=1.0),
               eval=Eval(interval=2))
if not dist.is_initialized() or dist.get_rank() == 0:
    print(json.dumps([[row["step"], row["loss"], row.get("val_loss")] for row in run.history]))
if dist.is_initialized():
    dist.destroy_process_group()
"""


def _train(folder: Path, processes: int, *, micro: int, steps: int = 99) -> list[list[Any]]:
    """The history of a run by so many processes, which stops after so many steps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", SCRIPT, str(folder), str(micro), str(steps)]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    started = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    try:
        ended = [process.communicate(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors
    return json.loads(ended[0][0].splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Any]]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, _train(folder, 1, micro=8)


def _check_alike(folder: Path, history: list[list[Any]], alone: tuple[Path, list[list[Any]]]) -> None:
    assert len(history) == len(alone[1]) == 7
    for (step, loss, val), (wanted_step, wanted_loss, wanted_val) in zip(history, alone[1], strict=True):
        assert step == wanted_step
        assert loss == pytest.approx(wanted_loss, rel=2e-6)
        assert val == (None if wanted_val is None else pytest.approx(wanted_val, rel=2e-6))
    found, wanted = (load_file(each / "final" / "model.safetensors") for each in (folder, alone[0]))
    for name, tensor in wanted.items():
        assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("micro", [1, 4])
def test_two_processes_train_as_one(tmp_path: Path, alone: tuple[Path, list[list[Any]]], micro: int) -> None:
    """The last step has three rows: of four at a time one process has none, as when the one row is evaluated."""
    _check_alike(tmp_path, _train(tmp_path, 2, micro=micro), alone)


def test_what_two_saved_one_goes_on_with(tmp_path: Path, alone: tuple[Path, list[list[Any]]]) -> None:
    assert len(_train(tmp_path, 2, micro=2, steps=3)) == 3
    _check_alike(tmp_path, _train(tmp_path, 1, micro=2), alone)
