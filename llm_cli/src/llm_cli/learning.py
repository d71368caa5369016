"""Finetuning of a model that is loaded, so that it goes on as the finetuned one."""

from __future__ import annotations

from typing import Any

from llm_cli.adapters import DEFAULT
from llm_cli.running import Running
from llm_cli.source import Source
from llm_finetune import Lora, Method, Run, Settings, adapters, finetune, is_adapter, with_lora
from llm_tokenizer import Tokenizer


def finetuned(
    running: Running,
    source: Source,
    tokenizer: Tokenizer | None,
    data: Any,
    *,
    method: Method | str = "lora",
    lora: Lora | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> tuple[Running, Run]:
    """The model after training, and the run; LoRA names the checkpoint of `source` as its base.

    ValueError for what doesn't go together, and for a model that has adapters.
    """
    on = adapters(running.model) or list(running.folders)
    if on:
        raise ValueError(f"the model has the adapter {on[0]!r}; merge it first, or load the base alone")
    if method == "lora":
        seed = options.get("seed", (settings or Settings()).seed)
        base = None if source.path is None else str(source.path.resolve())
        method, lora = with_lora(lora, base=base, seed=seed), None
    options |= {"method": method, "lora": lora, "settings": settings}
    run = finetune(running.model, data, tokenizer=tokenizer, **options)
    kept = {DEFAULT: run.final} if run.final is not None and is_adapter(run.final) else {}
    return running.changed(running.model, kept), run
