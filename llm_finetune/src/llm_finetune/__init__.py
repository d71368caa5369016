"""LoRA, QLoRA, DoRA, adapters and full finetuning of open-weight LLMs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_finetune.adapted import remove_adapter
    from llm_finetune.adapter import adapter_parameters, add_adapter, add_adapter_v2
    from llm_finetune.adapter_file import AdapterFile, read_adapter
    from llm_finetune.adapter_folder import base_of, is_adapter, load_adapter
    from llm_finetune.adapter_settings import AdapterSettings
    from llm_finetune.base_model import load_base
    from llm_finetune.batches import Batch, Sample, pack
    from llm_finetune.config_file import read_settings, write_settings
    from llm_finetune.data_settings import JSON, DataSettings, TextFiles
    from llm_finetune.dataset import Dataset, Report, load_data
    from llm_finetune.dry_run import DryRun, describe
    from llm_finetune.events import Event, Run
    from llm_finetune.feeding import Feed, Item, Rows
    from llm_finetune.freezing import freeze, train_layers
    from llm_finetune.job import Job
    from llm_finetune.job_options import make_job
    from llm_finetune.launching import launch, started
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
    from llm_finetune.loss import linear_cross_entropy, position_nll
    from llm_finetune.low_rank import with_lora
    from llm_finetune.merging import merge_lora, unload
    from llm_finetune.methods import Method, full
    from llm_finetune.needed_memory import Memory, estimate
    from llm_finetune.optimizers import Optimizers, build_optimizers
    from llm_finetune.order import Order, permutation
    from llm_finetune.peft_format import apply, write_adapter
    from llm_finetune.precision import stored_dtype
    from llm_finetune.preferences import dpo_loss, orpo_loss
    from llm_finetune.prompt_format import write_prompts
    from llm_finetune.prompting import with_adapter, with_adapter_v2
    from llm_finetune.recipes import recipe_names, recipe_path
    from llm_finetune.report import write_report
    from llm_finetune.rows import DataError, RowError
    from llm_finetune.running import plan_job, run_job
    from llm_finetune.samples import Samples
    from llm_finetune.schedules import schedule
    from llm_finetune.settings import Eval, Log, OptimizerSettings, Settings, Train, make_settings
    from llm_finetune.signals import stop_on_signals
    from llm_finetune.sources import SOURCES, Source
    from llm_finetune.state import ResumeError
    from llm_finetune.styles import STYLES, Style
    from llm_finetune.targets import lora_targets
    from llm_finetune.train import finetune

__all__ = [
    "JSON",
    "SOURCES",
    "STYLES",
    "AdapterFile",
    "AdapterSettings",
    "Batch",
    "DataError",
    "DataSettings",
    "Dataset",
    "DryRun",
    "Eval",
    "Event",
    "Feed",
    "Item",
    "Job",
    "Log",
    "Lora",
    "LoraLinear",
    "Memory",
    "Method",
    "OptimizerSettings",
    "Optimizers",
    "Order",
    "Report",
    "ResumeError",
    "RowError",
    "Rows",
    "Run",
    "Sample",
    "Samples",
    "Settings",
    "Source",
    "Style",
    "TextFiles",
    "Train",
    "adapter_parameters",
    "adapters",
    "add_adapter",
    "add_adapter_v2",
    "add_lora",
    "apply",
    "base_of",
    "build_optimizers",
    "describe",
    "disabled",
    "dpo_loss",
    "estimate",
    "finetune",
    "freeze",
    "full",
    "is_adapter",
    "launch",
    "linear_cross_entropy",
    "load_adapter",
    "load_base",
    "load_data",
    "lora_parameters",
    "lora_targets",
    "make_job",
    "make_settings",
    "merge_lora",
    "orpo_loss",
    "pack",
    "permutation",
    "plan_job",
    "position_nll",
    "read_adapter",
    "read_settings",
    "recipe_names",
    "recipe_path",
    "remove_adapter",
    "remove_lora",
    "run_job",
    "schedule",
    "seed_dropout",
    "set_adapter",
    "started",
    "stop_on_signals",
    "stored_dtype",
    "train_layers",
    "unload",
    "use_adapter",
    "with_adapter",
    "with_adapter_v2",
    "with_lora",
    "write_adapter",
    "write_prompts",
    "write_report",
    "write_settings",
]
_WHERE = {  # the module of each name, which is imported when it is first asked for: settings are read without torch
    "AdapterFile": "adapter_file",
    "AdapterSettings": "adapter_settings",
    "Batch": "batches",
    "DataError": "rows",
    "DataSettings": "data_settings",
    "Dataset": "dataset",
    "DryRun": "dry_run",
    "Eval": "settings",
    "Event": "events",
    "Feed": "feeding",
    "Item": "feeding",
    "JSON": "data_settings",
    "Job": "job",
    "Log": "settings",
    "Lora": "lora_settings",
    "LoraLinear": "lora",
    "Memory": "needed_memory",
    "Method": "methods",
    "OptimizerSettings": "settings",
    "Optimizers": "optimizers",
    "Order": "order",
    "Report": "dataset",
    "ResumeError": "state",
    "RowError": "rows",
    "Rows": "feeding",
    "Run": "events",
    "SOURCES": "sources",
    "STYLES": "styles",
    "Sample": "batches",
    "Samples": "samples",
    "Settings": "settings",
    "Source": "sources",
    "Style": "styles",
    "TextFiles": "data_settings",
    "Train": "settings",
    "adapter_parameters": "adapter",
    "adapters": "lora",
    "add_adapter": "adapter",
    "add_adapter_v2": "adapter",
    "add_lora": "lora",
    "apply": "peft_format",
    "base_of": "adapter_folder",
    "build_optimizers": "optimizers",
    "describe": "dry_run",
    "disabled": "lora",
    "dpo_loss": "preferences",
    "estimate": "needed_memory",
    "finetune": "train",
    "freeze": "freezing",
    "full": "methods",
    "is_adapter": "adapter_folder",
    "launch": "launching",
    "linear_cross_entropy": "loss",
    "load_adapter": "adapter_folder",
    "load_base": "base_model",
    "load_data": "dataset",
    "lora_parameters": "lora",
    "lora_targets": "targets",
    "make_job": "job_options",
    "make_settings": "settings",
    "merge_lora": "merging",
    "orpo_loss": "preferences",
    "pack": "batches",
    "permutation": "order",
    "plan_job": "running",
    "position_nll": "loss",
    "read_adapter": "adapter_file",
    "read_settings": "config_file",
    "recipe_names": "recipes",
    "recipe_path": "recipes",
    "remove_adapter": "adapted",
    "remove_lora": "lora",
    "run_job": "running",
    "schedule": "schedules",
    "seed_dropout": "lora",
    "set_adapter": "lora",
    "started": "launching",
    "stop_on_signals": "signals",
    "stored_dtype": "precision",
    "train_layers": "freezing",
    "unload": "merging",
    "use_adapter": "lora",
    "with_adapter": "prompting",
    "with_adapter_v2": "prompting",
    "with_lora": "low_rank",
    "write_adapter": "peft_format",
    "write_settings": "config_file",
    "write_prompts": "prompt_format",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_finetune.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
