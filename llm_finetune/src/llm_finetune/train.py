"""The call that trains: rows in, a finetuned model and its folder out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_finetune import run_folder
from llm_finetune.checkpointing import recomputed
from llm_finetune.dataset import Dataset
from llm_finetune.evaluate import mode
from llm_finetune.events import OnEvent, Run
from llm_finetune.feeding import Item, Rows
from llm_finetune.methods import Method, full
from llm_finetune.parallel import world
from llm_finetune.settings import Settings
from llm_finetune.trainer import Trainer
from llm_tokenizer import Tokenizer


def finetune(
    model: Any,
    data: Rows | Dataset | Sequence[Item],
    *,
    tokenizer: Tokenizer | None = None,
    method: Method | None = None,
    out_dir: str | Path | None = None,
    settings: Settings | None = None,
    resume: bool | str | Path = False,
    on_event: OnEvent | None = None,
    stop: Callable[[], bool] = lambda: False,
    **groups: Any,
) -> Run:
    """Train `model`, a `Decoder`, in place on rows of `data`, such as `load_data` gives; by default all of it (`full`).

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
    rows = data if isinstance(data, Rows) else data.rows if isinstance(data, Dataset) else Rows(train=data)
    folder = run_folder.opened(out_dir, resume, world())
    try:
        tell = on_event or (lambda event: None)
        trainer = Trainer(model, rows, settings, method or full(), folder, tokenizer, tell, stop)
        trainer.begin(resume)
        with mode(model, training=True), recomputed(model, settings.train.activation_checkpointing):
            trainer.train()
        return trainer.finish()
    finally:
        model.requires_grad_(False).eval()
        for parameter in model.parameters():
            parameter.grad = None
