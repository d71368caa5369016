"""The method of finetuning that a job's settings stand for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_finetune.freezing import freeze, train_layers
from llm_finetune.job import Job
from llm_finetune.low_rank import with_lora
from llm_finetune.methods import Method, full
from llm_finetune.peft_format import write_adapter
from llm_tokenizer import Tokenizer


def method_of(job: Job, *, base: str | None = None) -> Method:
    """How a job's model is made ready and what its result is; `base` is what an adapter calls its base model."""
    if job.method == "full":
        return _full(job)
    if job.method == "lora":
        return _lora(job, base)
    raise ValueError(f"the method {job.method} is not available in this version; use lora or full")


def _lora(job: Job, base: str | None) -> Method:
    method = with_lora(job.lora, base=base, seed=job.settings.seed, plus_ratio=job.lora_plus_ratio)
    if job.merge:
        return method

    def finish(model: Any, folder: Path, tokenizer: Tokenizer | None) -> None:
        write_adapter(folder, model, job.lora, base=base or "")

    return replace(method, finish=finish)


def _full(job: Job) -> Method:
    method = full()
    if job.freeze_layers is None and job.train_layers is None:
        return method

    def prepare(model: Any) -> None:
        method.prepare(model)  # refuses what is quantized
        if job.freeze_layers is not None:
            freeze(model, layers=job.freeze_layers)
        if job.train_layers is not None:
            train_layers(model, job.train_layers)

    return replace(method, prepare=prepare)
