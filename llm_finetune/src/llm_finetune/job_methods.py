"""The method of finetuning that a job's settings stand for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_finetune.adapter_settings import AdapterSettings
from llm_finetune.freezing import freeze, train_layers
from llm_finetune.job import Job
from llm_finetune.low_rank import with_lora
from llm_finetune.methods import Method, full
from llm_finetune.peft_format import write_adapter
from llm_finetune.precision import convert
from llm_finetune.prompting import with_adapter, with_adapter_v2
from llm_finetune.settings import Precision
from llm_tokenizer import Tokenizer


def method_of(job: Job, *, base: str | None = None, result: Precision | None = None) -> Method:
    """How a job's model is made ready and what its result is.

    `base` is what an adapter calls its base model. `result` is what the weights are rounded to at the end where all of
    them train; None leaves them as they are.
    """
    if job.method == "full":
        return _full(job, result)
    if job.method == "lora":
        return _lora(job, base)
    settings = AdapterSettings(prompt_length=job.adapter_prompt_length, start_layer=job.adapter_start_layer)
    made = with_adapter if job.method == "adapter" else with_adapter_v2
    return made(settings, base=base or "", seed=job.settings.seed)


def _lora(job: Job, base: str | None) -> Method:
    method = with_lora(job.lora, base=base, seed=job.settings.seed, plus_ratio=job.lora_plus_ratio)
    if job.merge:
        return method

    def finish(model: Any, folder: Path, tokenizer: Tokenizer | None) -> None:
        write_adapter(folder, model, job.lora, base=base or "")

    return replace(method, finish=finish)


def _full(job: Job, result: Precision | None) -> Method:
    method = full()

    def prepare(model: Any) -> None:
        method.prepare(model)  # refuses what is quantized
        if job.freeze_layers is not None:
            freeze(model, layers=job.freeze_layers)
        if job.train_layers is not None:
            train_layers(model, job.train_layers)

    def finish(model: Any, folder: Path, tokenizer: Tokenizer | None) -> None:
        convert(model, result)
        method.finish(model, folder, tokenizer)

    return replace(method, prepare=prepare, finish=finish)
