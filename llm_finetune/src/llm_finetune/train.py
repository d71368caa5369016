"""The call that trains: rows in, a finetuned model and its folder out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_finetune import run_folder
from llm_finetune.base_model import load_base
from llm_finetune.checkpointing import recomputed
from llm_finetune.data_settings import DataSettings
from llm_finetune.dataset import Dataset, load_data
from llm_finetune.evaluate import mode
from llm_finetune.events import OnEvent, Run
from llm_finetune.feeding import Item, Rows
from llm_finetune.job import MethodName
from llm_finetune.job_methods import method_of
from llm_finetune.job_options import make_job
from llm_finetune.lora_settings import Lora
from llm_finetune.methods import Method
from llm_finetune.parallel import world
from llm_finetune.products import lean
from llm_finetune.settings import Settings
from llm_finetune.styles import Style
from llm_finetune.trainer import Trainer
from llm_sepweight.atomic import atomic_file
from llm_tokenizer import Tokenizer

TEMPLATE = "chat_template.jinja"
Data = Rows | Dataset | DataSettings | Sequence[Item] | str | Path


def finetune(
    model: Any,
    data: Data,
    *,
    tokenizer: Tokenizer | None = None,
    method: Method | MethodName | None = None,
    lora: Lora | None = None,
    out_dir: str | Path | None = None,
    settings: Settings | None = None,
    resume: bool | str | Path = False,
    on_event: OnEvent | None = None,
    stop: Callable[[], bool] = lambda: False,
    **groups: Any,
) -> Run:
    """Train `model`, a `Decoder`, in place on rows of `data`; by default all of it ("full").

    `model` may be the folder of a checkpoint too, whose tokenizer is then read with it. `data` are samples, what
    `load_data` gives, or where it is: `DataSettings`, a file, a folder, or the name of a data set, for which the
    tokenizer is needed. Where these are written otherwise than in the checkpoint's own chat template, the result has a
    chat_template.jinja that writes them so. `method` is a `Method` or the name of one; `lora` are the settings of LoRA.

    `settings` as a whole, or its parts by name: train=Train(epochs=3). Checkpoints, metrics.csv and at last the folder
    `final`, with the tokenizer's files, go to `out_dir`; without one nothing is written. With `resume` a run goes on
    from there: True from its newest checkpoint, "auto" also where there is none yet, a path from that checkpoint. On a
    CPU with equally many threads its losses are then to the bit those of a run that was never interrupted. `stop` is
    asked after each step; once it is true, the run is saved and ends. The model is left in evaluation mode. Where
    torch.distributed was started, its processes share the micro-batches of each step, and the first one writes.

    ValueError for settings, rows and models that don't go together, for a filled out_dir without `resume`, and when the
    loss is no longer a number; ResumeError (a ValueError) for a checkpoint that this run can't go on from.
    """
    settings = replace(settings or Settings(), **groups)
    base = str(Path(model).resolve()) if isinstance(model, str | Path) else None
    chosen = _method(method, lora, settings, base)
    tokenizer = Tokenizer.load(base) if base is not None and tokenizer is None else tokenizer
    trained: Any = model if base is None else load_base(base, precision=settings.precision)
    data = _read(data, trained, tokenizer, settings)
    rows = data if isinstance(data, Rows) else data.rows if isinstance(data, Dataset) else Rows(train=data)
    folder = run_folder.opened(out_dir, resume, world())
    tokenizer = data.tokenizer if isinstance(data, Dataset) else tokenizer  # with the template that was trained
    try:
        tell = on_event or (lambda event: None)
        trainer = Trainer(trained, rows, settings, chosen, folder, tokenizer, tell, stop)
        trainer.begin(resume)
        with mode(trained, training=True), recomputed(trained, settings.train.activation_checkpointing), lean():
            trainer.train()
        run = trainer.finish()
        if isinstance(data, Dataset) and tokenizer is not None and run.final is not None and world().first:
            write_template(data.style, tokenizer, run.final)
        return run
    finally:
        trained.requires_grad_(False).eval()
        for parameter in trained.parameters():
            parameter.grad = None


def _method(method: Method | MethodName | None, lora: Lora | None, settings: Settings, base: str | None) -> Method:
    if not isinstance(method, Method):
        name = method or ("full" if lora is None else "lora")
        return method_of(replace(make_job({"method": name}), settings=settings, lora=lora or Lora()), base=base)
    if lora is not None:
        raise ValueError('lora goes with method="lora"; a Method has its own settings: with_lora(lora)')
    return method


def _read(data: Data, model: Any, tokenizer: Tokenizer | None, settings: Settings) -> Rows | Dataset | Sequence[Item]:
    """The rows, read where they are only named."""
    if isinstance(data, str | Path):
        data = make_job({"data": str(data)}).data
    if not isinstance(data, DataSettings):
        return data
    if tokenizer is None:
        raise ValueError("data that is read from files needs the model's tokenizer: give tokenizer")
    config = model.config
    length = min(settings.train.max_seq_length or config.max_positions, config.max_positions)
    return load_data(data, tokenizer, vocab_size=config.vocab_size, max_seq_length=length)


def write_template(style: Style, tokenizer: Tokenizer, final: Path) -> None:
    """Let serving write conversations as they were trained, where that isn't the checkpoint's own way.

    For the folder of an adapter: that of a whole model has it from `write_model`.
    """
    if not style.own and not (final / "config.json").exists():
        with atomic_file(final / TEMPLATE, overwrite=True) as file:
            file.write(style.jinja(tokenizer).encode())
