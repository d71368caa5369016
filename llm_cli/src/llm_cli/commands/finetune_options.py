"""The options of the finetuning commands, made of the dataclasses that hold them, so that there is no second list."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from llm_cli.commands.sampling import AccessToken
from llm_finetune.job import MethodName
from llm_finetune.job_options import Option, options
from llm_finetune.option_help import HELP

GROUPS = {
    "lora": "LoRA",
    "adapter": "Adapter",
    "data": "Data",
    "train": "Training",
    "eval": "Evaluation",
    "optimizer": "Optimizer",
    "log": "Logging",
}
SHORT = {"data.name": "data", "optimizer.name": "optimizer"}
ALSO = {"data.json_path": ["data.train_data_path"], "data.val_path": ["data.val_data_path"]}
DATA_HELP = (
    "The rows: a file or folder (JSON, JSONL, CSV, Parquet, text), a data set's name such as Alpaca, or a hub id."
)
CONFIG_HELP = "A file of settings, an https address, or the name of a recipe (`llm recipes`)."
Given = Mapping[str, Any]


def with_options(command: Callable[..., Any], method: MethodName | None) -> Callable[..., Any]:
    """`command(model, **given)` as a command with all options, of which those of other methods are only refused.

    `given` then has the options that were given, by their names with __ for the dot; `named` turns them back.
    """
    parameters = [*_own(), *(_parameter(option, method) for option in options().values() if option.name != "model")]
    command.__annotations__ = {}
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return command


def named(given: Given) -> dict[str, Any]:
    """The given options by their dotted names, as `llm_finetune.make_job` takes them."""
    return {name.replace("__", "."): value for name, value in given.items()}


def _own() -> Iterator[inspect.Parameter]:
    model = Annotated[str | None, Parameter(help="A folder, a name under checkpoints/ or a hub id; default: the demo.")]
    yield inspect.Parameter("model", inspect.Parameter.POSITIONAL_ONLY, default=None, annotation=model)
    yield _keyword("config", Annotated[str | None, Parameter(name="--config", help=CONFIG_HELP)], None)
    yield _keyword("access_token", AccessToken, None)
    told = "Tell what the run would do, a sample and the memory that it takes, and train nothing."
    yield _keyword("dry_run", Annotated[bool, Parameter(name="--dry_run", help=told)], False)
    yield _keyword("json", Annotated[bool, Parameter(name="--json", help="What --dry_run tells, as JSON.")], False)


def _parameter(option: Option, method: MethodName | None) -> inspect.Parameter:
    name = SHORT.get(option.name, option.name)
    help = DATA_HELP if name == "data" else HELP[option.name]
    prefix = option.name.partition("." if "." in option.name else "_")[0]
    spelt = [f"--{each}" for each in (name, *ALSO.get(name, ()))]
    shown = _belongs(option.name, method)
    parameter = Parameter(name=spelt, help=help, group=GROUPS.get(prefix, "Parameters"), show=shown)
    return _keyword(name.replace(".", "__"), Annotated[option.hint, parameter], option.default)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _belongs(name: str, method: MethodName | None) -> bool:
    """Whether the command of a method shows an option: its own and those of all."""
    if method is None:
        return True
    if name in ("freeze_layers", "train_layers"):
        return method == "full"
    if name == "quantize":
        return method != "full"
    if name in ("merge", "method"):
        return name == "merge" and method == "lora"
    prefix = name.partition("_")[0]
    return prefix not in ("lora", "adapter") or method.startswith(prefix)
