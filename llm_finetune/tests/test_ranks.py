"""Two processes train as one does: losses, weights, evaluation, texts and checkpoints; and they end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SCRIPT = str(Path(__file__).with_name("ranks_script.py"))
LAUNCH = (
    "import json, sys; from llm_finetune import launch; sys.exit(launch(json.loads(sys.argv[1]), int(sys.argv[2])))"
)
METHODS = ["full", "lora", "dora", "qlora-bnb.nf4", "qlora-int4"]
SGD: dict[str, Any] = {"optimizer": {"name": "SGD", "momentum": 0.9, "weight_decay": 0.0}, "learning_rate": 0.1}
ALL: dict[str, Any] = {"save_interval": 1, "keep": 9}  # also the first step's checkpoint, which has its gradients


def _command(folder: Path, processes: int, method: str, micro: int, steps: int, **more: Any) -> list[str]:
    folder.mkdir(exist_ok=True)
    tokenizer = folder / "tokenizer"
    if not tokenizer.exists():
        tokenizer.mkdir()
        ids = {chr(ord("0") + number): number for number in range(60)} | {"<|endoftext|>": 60}
        (tokenizer / "vocab.json").write_text(json.dumps(ids))
        (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    given = {"folder": str(folder), "method": method, "processes": processes, "micro": micro, "steps": steps}
    command = [sys.executable, SCRIPT, json.dumps(given | {"more": more})]
    return command if processes == 1 else [sys.executable, "-c", LAUNCH, json.dumps(command), str(processes)]


def _train(folder: Path, processes: int, method: str = "full", *, micro: int, steps: int = 99, **more: Any) -> Any:
    """What a run by so many processes says, which stops after so many steps."""
    command = _command(folder, processes, method, micro, steps, **more)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process makes by a method, computed once."""
    known: dict[str, tuple[Path, Any]] = {}

    def run(method: str, **more: Any) -> tuple[Path, Any]:
        key = f"{method}{more}"
        if key not in known:
            folder = tmp_path_factory.mktemp("alone")
            known[key] = folder, _train(folder, 1, method, micro=8, **ALL, **more)
        return known[key]

    return run


def _check_alike(folder: Path, said: Any, alone: tuple[Path, Any], *, gradients: float = 1e-6) -> None:
    """Losses to 1e-6 of themselves, and tensors to so much of their largest number.

    What an optimizer remembers of the first step are its gradients, and AdamW also their squares, which are twice as
    far apart. Later gradients are those of weights that differ in their last bits already. By SGD weights differ as
    the gradients do; AdamW divides each by its own size, and of those that are nearly 0 only the rounding is left.
    """
    wanted_folder, wanted = alone
    assert len(said["history"]) == len(wanted["history"]) > 2
    for (step, loss, val), (wanted_step, wanted_loss, wanted_val) in zip(
        said["history"], wanted["history"], strict=True
    ):
        assert step == wanted_step
        assert loss == pytest.approx(wanted_loss, rel=max(1e-6, gradients / 10))
        assert val == (None if wanted_val is None else pytest.approx(wanted_val, rel=max(1e-6, gradients / 10)))
    names = sorted(path.name for path in (wanted_folder / "run").glob("step-*"))
    if (folder / "run" / names[0]).exists():  # others keep the newest alone
        _check_near(folder, wanted_folder, f"{names[0]}/optimizer.safetensors", gradients)
    _check_near(folder, wanted_folder, f"{names[-1]}/optimizer.safetensors", 5 * gradients)
    by_sgd = "momentum_buffer" in "".join(load_file(wanted_folder / "run" / names[-1] / "optimizer.safetensors"))
    weights = gradients if by_sgd else 10 * gradients
    _check_near(folder, wanted_folder, f"{names[-1]}/trained.safetensors", weights)
    files = sorted((wanted_folder / "run" / "final").glob("*.safetensors"))
    assert files
    for file in files:
        _check_near(folder, wanted_folder, f"final/{file.name}", weights)


def _check_near(folder: Path, wanted_folder: Path, name: str, within: float) -> None:
    found, wanted = (load_file(each / "run" / name) for each in (folder, wanted_folder))
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        apart = float((found[key].double() - tensor.double()).abs().max())
        most = within * (2 if key.endswith("_sq") else 1) * float(tensor.abs().max())
        assert apart <= most, (name, key, apart, most)


@pytest.mark.parametrize(
    ("micro", "shard", "more"),
    [(1, False, SGD), (4, False, {}), (1, True, {}), (4, True, SGD)],
    ids=["1-whole-SGD", "4-whole-AdamW", "1-parted-AdamW", "4-parted-SGD"],
)
def test_two_processes_train_as_one(tmp_path: Path, alone: Any, micro: int, shard: bool, more: dict[str, Any]) -> None:
    """The last step has three rows: of four at a time one process has none, as when the one row is evaluated."""
    said, wanted = _train(tmp_path, 2, micro=micro, shard=shard, **more, **ALL), alone("full", **more)
    _check_alike(tmp_path, said, wanted)
    assert said["samples"] == wanted[1]["samples"]
    assert len(said["samples"]) == 6
    assert said["after"] == wanted[1]["after"] == said["samples"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[1:])
def test_so_do_adapters_each_with_the_whole_base(tmp_path: Path, alone: Any, method: str) -> None:
    """The kernels for int4 round what they multiply to 16 bits, where a last bit may become one of these."""
    said, wanted = _train(tmp_path, 2, method, micro=2, shard=False, **SGD, **ALL), alone(method, **SGD)
    _check_alike(tmp_path, said, wanted, gradients=3e-5 if method == "qlora-int4" else 1e-6)
    assert said["samples"] == wanted[1]["samples"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_so_do_adapters_on_a_sharded_base(tmp_path: Path, alone: Any, method: str) -> None:
    said, wanted = _train(tmp_path, 2, method, micro=4, shard=True, **ALL), alone(method)
    _check_alike(tmp_path, said, wanted)
    assert said["samples"] == wanted[1]["samples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"tied": True},
        {"pairs": True},
        {"activation_checkpointing": True},
        {"tie_embeddings": True},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
    ],
    ids=str,
)
def test_so_do_sharded_models_of_every_kind(tmp_path: Path, alone: Any, more: dict[str, Any]) -> None:
    said, wanted = _train(tmp_path, 2, micro=1, shard=True, **more), alone("full", **more)
    if "precision" not in more:
        _check_alike(tmp_path, said, wanted)
        return
    for found, known in zip(said["history"], wanted[1]["history"], strict=True):
        assert found[1] == pytest.approx(known[1], rel=0.02)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("shard", [False, True])
def test_what_so_many_saved_others_go_on_with(tmp_path: Path, alone: Any, before: int, after: int, shard: bool) -> None:
    assert len(_train(tmp_path, before, micro=2, steps=3, shard=shard)["history"]) == 3
    _check_alike(tmp_path, _train(tmp_path, after, micro=2, shard=shard), alone("full"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "qlora-int4"])
def test_two_go_on_with_what_two_saved_to_the_bit(tmp_path: Path, method: str) -> None:
    shard = method != "qlora-int4"
    options: dict[str, Any] = {"micro": 2, "shard": shard, "dropout": 0.1}
    whole = _train(tmp_path / "whole", 2, method, **options)
    _train(tmp_path / "parts", 2, method, **options, steps=3)
    assert _train(tmp_path / "parts", 2, method, **options)["history"] == whole["history"]
    for file in ("step-000007/trained.safetensors", "step-000007/optimizer.safetensors"):
        found, wanted = (tmp_path / each / "run" / file for each in ("parts", "whole"))
        assert found.read_bytes() == wanted.read_bytes()


def test_one_that_dies_ends_all_and_is_named(tmp_path: Path) -> None:
    """Its neighbour waits for its gradients, which would never come."""
    command = _command(tmp_path, 2, "full", 1, 99, dies=1)
    begun = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode != 0
    assert "of 2 ended" in ended.stderr
    assert "so the others were ended too" in ended.stderr
    assert time.monotonic() - begun < 60


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_reaches_all_and_they_save(tmp_path: Path, alone: Any, number: signal.Signals) -> None:
    there = tmp_path / "there"
    there.mkdir()
    process = subprocess.Popen(
        _command(tmp_path, 2, "full", 1, 99, interrupts=str(there), shard=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and len(list(there.iterdir())) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert json.loads(out.splitlines()[-1])["stopped"] is True
    _check_alike(tmp_path, _train(tmp_path, 2, micro=4, shard=True), alone("full"))
