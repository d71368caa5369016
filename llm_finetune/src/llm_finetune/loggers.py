"""Where the numbers of a run go beside metrics.csv: TensorBoard, Weights & Biases or MLflow, each an extra.

A run that is resumed goes on in the same log: its identity is in a file of the run's folder, drawn by chance once.
"""

import os
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_finetune.events import Event, OnEvent
from llm_finetune.job import LoggerName
from llm_finetune.settings import Log

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_NUMBERS = ("epoch", "loss", "val_loss", "learning_rate", "norm", "tokens", "trained_tokens", "tokens_per_second")
_PROJECT = "llm_finetune"
_IDENTITY = "logged_run"  # the file
Send = Callable[[int, Mapping[str, float]], None]
Close = Callable[[], None]


def require_logger(name: LoggerName) -> None:
    """ValueError where a logger's package isn't installed."""
    package = _PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise ValueError(f"the logger {name} needs a package: pip install 'llm_finetune[{name}]'")


def make_loggers(name: LoggerName, out_dir: str | Path, log: Log, settings: Mapping[str, Any]) -> OnEvent:
    """What is to see a run's events so that a logger gets its numbers by step; csv is the loop's own, and nothing more.

    `settings` are told to the logger, an access token never. The log is opened by the event "start" and closed by
    "end". Without MLFLOW_TRACKING_URI MLflow's files are in `out_dir`. ValueError where the package isn't installed.
    """
    require_logger(name)
    openers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    if name not in openers:
        return lambda event: None
    opened: list[tuple[Send, Close]] = []
    told = {key: value for key, value in settings.items() if not key.endswith("access_token")}

    def on_event(event: Event) -> None:
        if event.kind == "start":
            opened.append(openers[name](Path(out_dir), log, told, event.step))
        elif event.kind == "step" and opened:
            numbers = {key: float(event.values[key]) for key in _NUMBERS if event.values.get(key) is not None}
            opened[0][0](event.step, numbers)
        elif event.kind == "end" and opened:
            opened.pop()[1]()

    return on_event


def _tensorboard(out_dir: Path, log: Log, settings: Mapping[str, Any], done: int) -> tuple[Send, Close]:
    from torch.utils.tensorboard import SummaryWriter

    folder = out_dir / "tensorboard"
    again = done + 1 if done else 0  # what an ended part of the run told after its last checkpoint counts no more
    writer: Any = SummaryWriter(str(folder), purge_step=again)
    writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def send(step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return send, writer.close


def _wandb(out_dir: Path, log: Log, settings: Mapping[str, Any], done: int) -> tuple[Send, Close]:
    import wandb

    names = {"project": log.project or _PROJECT, "name": log.run, "group": log.group}
    # of itself it would keep the command line, which may have a token, and all that is printed, which has data
    quiet = wandb.Settings(x_disable_meta=True, console="off")
    run: Any = wandb.init(
        **names, dir=str(out_dir), id=_identity(out_dir), resume="allow", config=dict(settings), settings=quiet
    )
    return lambda step, numbers: run.log(dict(numbers), step=step), run.finish


def _mlflow(out_dir: Path, log: Log, settings: Mapping[str, Any], done: int) -> tuple[Send, Close]:
    from mlflow.tracking import MlflowClient
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else MLflow wants a database, even for one run
        address = (out_dir / "mlruns").resolve().as_uri()
    client: Any = MlflowClient(tracking_uri=address)
    project = log.project or _PROJECT
    found = client.get_experiment_by_name(project)
    experiment = client.create_experiment(project) if found is None else found.experiment_id
    ours = f"tags.llm_finetune = '{_identity(out_dir)}'"
    known = client.search_runs([experiment], filter_string=ours, max_results=1)
    if known:
        run = known[0].info.run_id
        client.update_run(run, status="RUNNING")
    else:
        tags = {"llm_finetune": _identity(out_dir), "mlflow.runName": log.run or out_dir.name}
        run = client.create_run(experiment, tags=tags | ({"group": log.group} if log.group else {})).info.run_id
        for key, value in settings.items():
            client.log_param(run, key, str(value)[:MAX_PARAM_VAL_LENGTH])

    told = {key: client.get_metric_history(run, key) for key in _NUMBERS}
    last = {key: max((each.step for each in rows), default=-1) for key, rows in told.items()}

    def send(step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            if step > last[key]:  # MLflow would keep both of a step that is told again
                client.log_metric(run, key, value, step=step)

    return send, lambda: client.set_terminated(run)


def _identity(out_dir: Path) -> str:
    """The same for each part of a run, and another for each run, also of another machine or of a folder used again."""
    from llm_sepweight.atomic import atomic_file  # brings torch along

    path = out_dir / _IDENTITY
    if not path.exists():
        with atomic_file(path) as file:
            file.write(uuid.uuid4().hex.encode())
    return path.read_text(encoding="utf-8")
