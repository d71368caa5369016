"""Each logger for real, offline: what was told is read back."""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_finetune import loggers
from llm_finetune.events import Event
from llm_finetune.job import LoggerName
from llm_finetune.loggers import make_loggers
from llm_finetune.settings import Log

SETTINGS = {"lora_r": 8, "data.name": "Alpaca", "data.access_token": "hf_secret"}


def told(name: LoggerName, out_dir: Path, first: int, last: int, done: int = 0) -> None:
    """A part of a run, of the steps first to last; the loss of step s is 10 - s."""
    on_event = make_loggers(name, out_dir, Log(project="project", run="run"), SETTINGS)
    on_event(Event(kind="start", step=done, values={"steps": last}))
    for step in range(first, last + 1):
        on_event(Event(kind="step", step=step, values={"step": step, "loss": 10.0 - step, "tokens_per_second": 7.0}))
        on_event(Event(kind="eval", step=step, values={"val_loss": 1.0}))
    on_event(Event(kind="end", step=last, values={"final": None}))


def secret_in(folder: Path) -> bool:
    return any(b"hf_secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_tensorboard(tmp_path: Path) -> None:
    told("tensorboard", tmp_path, 1, 4)
    told("tensorboard", tmp_path, 3, 6, done=2)  # which a checkpoint of step 2 goes on with
    assert in_tensorboard(tmp_path) == [(s, 10.0 - s) for s in range(1, 7)]
    assert not secret_in(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_begins_anew_before_its_first_checkpoint_is_in_tensorboard_once(tmp_path: Path) -> None:
    told("tensorboard", tmp_path, 0, 4)
    told("tensorboard", tmp_path, 0, 6)
    assert in_tensorboard(tmp_path) == [(s, 10.0 - s) for s in range(7)]


def in_tensorboard(out_dir: Path) -> list[tuple[int, float]]:
    accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(out_dir / "tensorboard"))
    events.Reload()
    return [(each.step, each.value) for each in events.Scalars("loss")]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    told("mlflow", tmp_path, 1, 4)
    told("mlflow", tmp_path, 3, 6, done=2)
    tracking: Any = importlib.import_module("mlflow.tracking")
    client = tracking.MlflowClient(tracking_uri=(tmp_path / "mlruns").resolve().as_uri())
    experiment = client.get_experiment_by_name("project").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["lora_r"] == "8"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(s, 10.0 - s) for s in range(1, 7)]
    assert not secret_in(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_a_new_run_in_a_folder_used_before_is_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = (tmp_path / "server").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    out = tmp_path / "out"
    for last in (4, 3):
        out.mkdir()
        told("mlflow", out, 1, last)
        shutil.rmtree(out)
    client: Any = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=address)
    runs = client.search_runs([client.get_experiment_by_name("project").experiment_id])
    assert sorted(len(client.get_metric_history(run.info.run_id, "loss")) for run in runs) == [3, 4]


@pytest.mark.filterwarnings("ignore")
def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(sys, "argv", ["llm", "finetune", "--access_token", "hf_secret"])
    told("wandb", tmp_path, 1, 3)
    told("wandb", tmp_path, 4, 5, done=3)
    parts = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert parts
    files = [path for part in parts for path in part.glob("*.wandb")]
    assert len({path.name for path in files}) == 1  # one run; its folders differ where two begin in one second
    assert all(path.stat().st_size for path in files)
    assert any(b"loss" in path.read_bytes() for path in files)
    assert not secret_in(tmp_path)


def test_a_package_that_is_missing_is_told_before_anything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'llm_finetune\[wandb\]'"):
        make_loggers("wandb", tmp_path, Log(), {})
    make_loggers("csv", tmp_path, Log(), {})(Event(kind="start", step=0, values={}))
    assert not list(tmp_path.iterdir())
