"""LoRA, QLoRA, DoRA, adapters and full finetuning of open-weight LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_finetune.batches import Batch, Sample, pack
    from llm_finetune.loss import linear_cross_entropy, position_nll
    from llm_finetune.preferences import dpo_loss, orpo_loss

__all__ = [
    "Batch",
    "Sample",
    "dpo_loss",
    "linear_cross_entropy",
    "orpo_loss",
    "pack",
    "position_nll",
]
_WHERE = {  # the module of each name, which is imported when it is first asked for: settings are read without torch
    "Batch": "batches",
    "Sample": "batches",
    "dpo_loss": "preferences",
    "linear_cross_entropy": "loss",
    "orpo_loss": "preferences",
    "pack": "batches",
    "position_nll": "loss",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_finetune.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
