"""`llm finetune` and its forms for one method each: train a model on your own data."""

from __future__ import annotations

from typing import Any

from llm_cli.commands.finetune_options import with_options
from llm_finetune.job import MethodName


def _run(method: MethodName | None, model: str | None, given: dict[str, Any]) -> int:
    from llm_cli.finetuning import run

    return run(method, model, given)


def finetune(model: str | None = None, /, **given: Any) -> int:
    """Train a model on your own data, by default with LoRA, and print the folder of the result.

    MODEL is the model that ships inside where none is given, and DATA a file
    or folder of rows: `llm finetune MODEL --data my.json` is enough. OUT_DIR
    gets checkpoints, metrics.csv, settings.yaml (which --config takes again)
    and at last report.html and the result, `final`, for `llm chat`. A run that
    was interrupted goes on with --resume auto. Options of the command line
    count before those of the environment, and these before those of --config.
    """
    return _run(None, model, given)


def finetune_lora(model: str | None = None, /, **given: Any) -> int:
    """Train low-rank adapters beside the model's weights (LoRA), and print the folder of the result.

    With --quantize the model's own weights are rounded (QLoRA). The same as
    `llm finetune` without --method.
    """
    return _run("lora", model, given)


def finetune_full(model: str | None = None, /, **given: Any) -> int:
    """Train all weights of a model, or those of some layers, and print the folder of the result."""
    return _run("full", model, given)


def finetune_adapter(model: str | None = None, /, **given: Any) -> int:
    """Train prompts that the upper layers attend to (LLaMA-Adapter), and print the folder of the result."""
    return _run("adapter", model, given)


def finetune_adapter_v2(model: str | None = None, /, **given: Any) -> int:
    """Train prompts, norms, and a scale and bias of each linear layer (LLaMA-Adapter V2), and print the result."""
    return _run("adapter_v2", model, given)


with_options(finetune, None)
with_options(finetune_lora, "lora")
with_options(finetune_full, "full")
with_options(finetune_adapter, "adapter")
with_options(finetune_adapter_v2, "adapter_v2")
