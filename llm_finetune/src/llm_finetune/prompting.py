"""LLaMA-Adapter as a method of finetuning: what trains, what preferences are compared with, and the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_finetune.adapter import add_adapter, add_adapter_v2
from llm_finetune.adapter_settings import AdapterSettings
from llm_finetune.low_rank import without_adapters
from llm_finetune.methods import Method
from llm_finetune.prompt_format import write_prompts
from llm_tokenizer import Tokenizer


def with_adapter(settings: AdapterSettings | None = None, *, base: str, seed: int = 1337) -> Method:
    """Prompts train and everything else is frozen (LLaMA-Adapter, arXiv 2303.16199); `seed` decides where they begin.

    They can't be merged: the result is the folder of an adapter, whose base model's name or path is `base`, for
    `load_adapter`. The base may be quantized. ValueError without a base.
    """
    return _method("adapter", add_adapter, settings, base, seed)


def with_adapter_v2(settings: AdapterSettings | None = None, *, base: str, seed: int = 1337) -> Method:
    """The same, with a bias and a scale on every linear layer and norms that train (arXiv 2304.15010)."""
    return _method("adapter_v2", add_adapter_v2, settings, base, seed)


def _method(name: str, add: Callable[..., Any], settings: AdapterSettings | None, base: str, seed: int) -> Method:
    chosen = settings or AdapterSettings()
    if not base:
        raise ValueError("the result is an adapter, which names its base model: give base")

    def prepare(model: Any) -> None:
        add(model, chosen, seed=seed)

    def finish(model: Any, folder: Path, tokenizer: Tokenizer | None) -> None:
        write_prompts(folder, model, chosen, base=base)

    return Method(name=name, prepare=prepare, finish=finish, reference=without_adapters)
