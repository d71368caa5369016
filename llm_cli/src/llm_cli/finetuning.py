"""`llm finetune`: from what the command line gave to the folder of the result."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_cli.commands.finetune_options import named
from llm_cli.errors import DONE, INTERRUPTED, UsageError, usage
from llm_cli.output import write_lines, write_notice
from llm_cli.training_display import training_display
from llm_finetune.job import Job, MethodName

if TYPE_CHECKING:
    from llm_finetune.events import Event


def run(method: MethodName | None, model: str | None, given: dict[str, Any]) -> int:
    """Finetune, and print the folder of the result; gives the exit code."""
    access_token = given.pop("access_token", None)
    dry, as_json = given.pop("dry_run", False), given.pop("json", False)
    if as_json and not dry:
        raise UsageError("--json goes with --dry_run; the result of a run is the folder that it prints")
    if access_token is not None:
        given.setdefault("data__access_token", access_token)
    job = read_job(method, model, given)
    from llm_cli import models

    folder = models.resolve(job.model, access_token=access_token)  # here, so that several processes needn't fetch it
    if dry:
        from llm_finetune.running import plan_job

        plan = plan_job(job, folder)
        write_lines(json.dumps(plan.values, indent=2, ensure_ascii=False) if as_json else str(plan))
        return DONE
    devices = _devices(job)
    if devices > 1 and job.num_nodes == 1 and "WORLD_SIZE" not in os.environ:
        from llm_finetune.launching import launch

        return launch([sys.executable, "-m", "llm_cli", *sys.argv[1:]], devices)
    return train(job, folder, devices)


def train(job: Job, folder: Path, devices: int) -> int:
    """Finetune as one of the processes that there are; the first one prints the folder, and tells of the run."""
    from llm_finetune.launching import started
    from llm_finetune.parallel import world
    from llm_finetune.running import run_job

    several = devices * job.num_nodes > 1
    with started(devices, job.num_nodes), stopping(at_once=several) as (seen, asked), training_display() as show:
        first = world().first

        def on_event(event: Event) -> None:
            seen(event)
            show(event)

        done = run_job(job, folder, base=_name(job.model), on_event=on_event, stop=asked)
    if done.interrupted:
        if first:
            write_notice(f"interrupted and saved; to go on: {resuming(job)}")
        return INTERRUPTED
    if first:
        write_lines(str(done.final))
    return DONE


@contextmanager
def stopping(*, at_once: bool) -> Iterator[tuple[Callable[[Event], None], Callable[[], bool]]]:
    """From the start of a run, Ctrl-C and SIGTERM end it after its running step; what comes earlier ends the process.

    Gives what is to see the run's events, and what tells whether it was asked to stop. With `at_once` the signals are
    kept from the beginning: one of several processes must not leave the others waiting, and only the first sees events.
    """
    from llm_finetune.signals import stop_on_signals

    asked: list[Callable[[], bool]] = []
    with ExitStack() as stack:
        if at_once:
            asked.append(stack.enter_context(stop_on_signals()))

        def seen(event: Event) -> None:
            if event.kind == "start" and not asked:
                asked.append(stack.enter_context(stop_on_signals()))

        yield seen, lambda: any(each() for each in asked)


def read_job(method: MethodName | None, model: str | None, given: dict[str, Any]) -> Job:
    """The job of the command line, and below it of --config. UsageError for what can't be meant."""
    from llm_finetune.config_file import read_options
    from llm_finetune.job_options import make_job

    options = named(given)
    config = options.pop("config", None)
    with usage():
        layers = [] if config is None else [read_options(config)]
        layers.append(options if model is None else {**options, "model": model})
        return make_job(*layers, method=method)


def resuming(job: Job) -> str:
    """The command line that goes on with a job's run."""
    from llm_finetune.config_file import NAME

    return shlex.join(["llm", "finetune", "--config", f"{job.folder}/{NAME}", "--resume", "auto"])


def _devices(job: Job) -> int:
    """How many processes of this machine train: as many as asked for, or as there are CUDA devices."""
    if job.devices != "auto":
        return job.devices
    import torch

    return max(1, torch.cuda.device_count())


def _name(model: str | None) -> str | None:
    """What an adapter calls its base model: a hub id as it is, None for the folder's path."""
    from llm_cli.models import HUB_ID

    return model if model is not None and HUB_ID.fullmatch(model) and not Path(model).exists() else None
