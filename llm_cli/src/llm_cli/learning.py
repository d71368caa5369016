"""Finetuning of a model that is loaded, so that it goes on as the finetuned one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_cli.adapters import DEFAULT
from llm_cli.running import Running
from llm_cli.source import Source
from llm_finetune import (
    JSON,
    DataSettings,
    Lora,
    Method,
    Run,
    Settings,
    adapters,
    finetune,
    is_adapter,
    load_data,
    with_lora,
)
from llm_tokenizer import Tokenizer


def finetuned(
    running: Running,
    source: Source,
    tokenizer: Tokenizer | None,
    data: Any,
    *,
    method: Method | None = None,
    lora: Lora | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> tuple[Running, Run]:
    """The model after training, and the run. `data` may be a file, `DataSettings`, or what `llm_finetune` takes.

    ValueError for what doesn't go together, for a model that has adapters, and for a file without a tokenizer.
    """
    on = adapters(running.model) or list(running.folders)
    if on:
        raise ValueError(f"the model has the adapter {on[0]!r}; merge it first, or load the base alone")
    if method is not None and lora is not None:
        raise ValueError("lora= has the settings of LoRA, which another method hasn't; leave out lora, or method")
    base = None if source.path is None else str(source.path.resolve())
    chosen = replace(settings or Settings(), **{key: options[key] for key in ("train",) if key in options})
    rows = _rows(data, running.model, tokenizer, chosen.train.max_seq_length)
    method = method or with_lora(lora, base=base, seed=chosen.seed)
    run = finetune(running.model, rows, tokenizer=tokenizer, method=method, settings=settings, **options)
    kept = {DEFAULT: run.final} if run.final is not None and is_adapter(run.final) else {}
    return running.changed(running.model, kept), run


def _rows(data: Any, model: Any, tokenizer: Tokenizer | None, longest: int | None) -> Any:
    """What `llm_finetune.finetune` takes: files become samples, as long as the context at most."""
    if isinstance(data, str | Path):
        data = JSON(str(data))
    if not isinstance(data, DataSettings):
        return data
    if tokenizer is None:
        raise ValueError("this checkpoint has no tokenizer to read texts with; load with tokenizer_dir=")
    config = model.config
    longest = min(longest or config.max_positions, config.max_positions)
    return load_data(data, tokenizer, vocab_size=config.vocab_size, max_seq_length=longest)
