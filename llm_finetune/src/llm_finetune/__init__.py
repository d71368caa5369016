"""LoRA, QLoRA, DoRA, adapters and full finetuning of open-weight LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_finetune.batches import Batch, Sample, pack
    from llm_finetune.events import Event, Run
    from llm_finetune.feeding import Feed, Item, Rows, permutation
    from llm_finetune.loss import linear_cross_entropy, position_nll
    from llm_finetune.methods import Method, full
    from llm_finetune.optimizers import Optimizers, build_optimizers
    from llm_finetune.preferences import dpo_loss, orpo_loss
    from llm_finetune.schedules import schedule
    from llm_finetune.settings import Eval, Log, OptimizerSettings, Settings, Train, make_settings
    from llm_finetune.state import ResumeError
    from llm_finetune.train import finetune

__all__ = [
    "Batch",
    "Eval",
    "Event",
    "Feed",
    "Item",
    "Log",
    "Method",
    "OptimizerSettings",
    "Optimizers",
    "ResumeError",
    "Rows",
    "Run",
    "Sample",
    "Settings",
    "Train",
    "build_optimizers",
    "dpo_loss",
    "finetune",
    "full",
    "linear_cross_entropy",
    "make_settings",
    "orpo_loss",
    "pack",
    "permutation",
    "position_nll",
    "schedule",
]
_WHERE = {  # the module of each name, which is imported when it is first asked for: settings are read without torch
    "Batch": "batches",
    "Eval": "settings",
    "Event": "events",
    "Feed": "feeding",
    "Item": "feeding",
    "Log": "settings",
    "Method": "methods",
    "OptimizerSettings": "settings",
    "Optimizers": "optimizers",
    "ResumeError": "state",
    "Rows": "feeding",
    "Run": "events",
    "Sample": "batches",
    "Settings": "settings",
    "Train": "settings",
    "build_optimizers": "optimizers",
    "dpo_loss": "preferences",
    "finetune": "train",
    "full": "methods",
    "linear_cross_entropy": "loss",
    "make_settings": "settings",
    "orpo_loss": "preferences",
    "pack": "batches",
    "permutation": "feeding",
    "position_nll": "loss",
    "schedule": "schedules",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_finetune.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
from llm_finetune.adapter_file import AdapterFile, read_adapter
from llm_finetune.freezing import freeze, train_layers
from llm_finetune.lora import (
    LoraLinear,
    adapters,
    add_lora,
    disabled,
    lora_parameters,
    remove_lora,
    seed_dropout,
    set_adapter,
    use_adapter,
)
from llm_finetune.lora_settings import Lora
from llm_finetune.merging import merge_lora, unload
from llm_finetune.peft_format import apply, write_adapter
from llm_finetune.targets import lora_targets

__all__ = [
    "AdapterFile",
    "Lora",
    "LoraLinear",
    "adapters",
    "add_lora",
    "apply",
    "disabled",
    "freeze",
    "lora_parameters",
    "lora_targets",
    "merge_lora",
    "read_adapter",
    "remove_lora",
    "seed_dropout",
    "set_adapter",
    "train_layers",
    "unload",
    "use_adapter",
    "write_adapter",
from llm_finetune.data_settings import JSON, DataSettings
from llm_finetune.dataset import Dataset, Report, load_data
from llm_finetune.order import Order
from llm_finetune.rows import DataError, RowError
from llm_finetune.samples import Samples
from llm_finetune.styles import STYLES, Style

__all__ = [
    "JSON",
    "STYLES",
    "DataError",
    "DataSettings",
    "Dataset",
    "Order",
    "Report",
    "RowError",
    "Samples",
    "Style",
    "load_data",
]
