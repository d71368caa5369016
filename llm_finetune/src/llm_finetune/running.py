"""A whole run from a `Job`: base model and data read, trained, and a folder that can be talked to."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import llm_blocks
from llm_finetune import run_folder
from llm_finetune.base_model import load_base, outline, stored_precision, usual_precision
from llm_finetune.config_file import NAME, effective, write_settings
from llm_finetune.dataset import Dataset, load_data
from llm_finetune.dry_run import DryRun, describe
from llm_finetune.events import Event, OnEvent, Run
from llm_finetune.job import Job
from llm_finetune.job_methods import method_of
from llm_finetune.job_options import options, value
from llm_finetune.loggers import make_loggers, require_logger
from llm_finetune.lora_settings import Lora
from llm_finetune.parallel import world
from llm_finetune.report import NAME as REPORT
from llm_finetune.report import write_report
from llm_finetune.train import finetune
from llm_tokenizer import Tokenizer

USUAL_DATA = "Alpaca"  # what is fetched where no data is named


def run_job(
    job: Job,
    folder: str | Path,
    *,
    base: str | None = None,
    on_event: OnEvent | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Do what a job says with the checkpoint in `folder`; the same as `llm finetune`.

    `base` is what an adapter's folder calls its base model, the folder's path where nothing is given. `on_event` is
    also told of the data, before anything is trained: an Event "data" with the values report and style. Beside the
    result are settings.yaml, which `read_settings` takes, and report.html.

    Raises as `finetune` and `load_data` do, for a filled folder of the run before anything is read.
    """
    require_logger(job.logger_name)
    run_folder.require_free(job.folder, job.resume)
    result = stored_precision(folder) if job.settings.precision in (None, "bf16-mixed", "16-mixed") else None
    job = _settled(job, folder)
    precision = job.settings.precision
    tokenizer, data = read_data(job, folder)
    tell = on_event or (lambda event: None)
    if world().first:
        tell(Event(kind="data", step=0, values={"report": data.report, "style": data.style.name}))

    prompts: list[str] = []
    plain = {name: value(job, option) for name, option in options().items()}
    log = make_loggers(job.logger_name, job.folder, job.settings.log, plain)

    def told(event: Event) -> None:
        if event.kind == "start":
            write_settings(effective(job), Path(job.folder) / NAME)
        if event.kind == "sample" and not prompts:
            prompts.append(event.values["prompt"])
        tell(event)
        log(event)

    run = finetune(
        load_base(folder, precision=precision, quantize=job.quantize),
        data,
        tokenizer=tokenizer,
        method=method_of(job, base=base or str(Path(folder).resolve()), result=result),
        out_dir=job.folder,
        settings=job.settings,
        resume=job.resume,
        on_event=told,
        stop=stop,
    )
    if world().first and not run.interrupted:
        _report(run, job, data, base or str(folder), prompts)
    return run


def plan_job(job: Job, folder: str | Path) -> DryRun:
    """What `run_job` would do, and the memory that it would take; nothing is trained, and no weight is read.

    Of an adapter's prompts, which are few, the memory told is that of the smallest LoRA. Raises as `run_job` does.
    """
    run_folder.require_free(job.folder, job.resume)
    job = _settled(job, folder)
    model = outline(folder, precision=job.settings.precision)
    lora = None if job.method == "full" else job.lora if job.method == "lora" else Lora(r=1)
    return describe(read_data(job, folder)[1], job.settings, model, lora=lora, quantize=job.quantize)


def _settled(job: Job, folder: str | Path) -> Job:
    """A job with the data and the precision that it doesn't name."""
    if job.data.name is None and job.data.json_path is None:
        job = replace(job, data=replace(job.data, name=USUAL_DATA))
    precision = job.settings.precision or usual_precision(folder, full=job.method == "full")
    return replace(job, settings=replace(job.settings, precision=precision))


def _report(run: Run, job: Job, data: Dataset, base: str, prompts: list[str]) -> None:
    """The page of a run. The result is there already, so that whatever fails here is a warning."""
    try:
        write_report(
            job.folder, run, job=effective(job), data=data.report, base=base, prompt=prompts[0] if prompts else None
        )
    except Exception as error:  # noqa: BLE001 - a page that fails, for whatever reason, must not lose a run
        warnings.warn(f"{job.folder}/{REPORT} could not be written: {error}", stacklevel=3)


def read_data(job: Job, folder: str | Path) -> tuple[Tokenizer, Dataset]:
    """The tokenizer of a checkpoint, and a job's data as its model reads them."""
    config = llm_blocks.load_config(folder)
    tokenizer = Tokenizer.load(folder)
    length = min(job.settings.train.max_seq_length or config.max_positions, config.max_positions)
    return tokenizer, load_data(job.data, tokenizer, vocab_size=config.vocab_size, max_seq_length=length)
