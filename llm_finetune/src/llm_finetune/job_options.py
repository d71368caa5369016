"""The options of a `Job` by the names that files and command lines give them, such as lora_r and train.epochs.

They are the fields of the dataclasses, so that there is no second list: those of `Lora` begin with lora_, those of
`Settings` stand beside the job's own, and data, train, eval, log and optimizer are groups.
"""

import difflib
import functools
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from llm_finetune.data_names import data_set
from llm_finetune.job import Job, MethodName

_PREFIXES = {"lora": "lora_", "settings": ""}
_RENAMED = {  # spellings of older files
    "checkpoint_dir": "model",
    "data.train_data_path": "data.json_path",
    "data.val_data_path": "data.val_path",
    "optimizer": "optimizer.name",
}
_QUANTIZATIONS = {"int8-training": "bnb.int8", "bnb.int8-training": "bnb.int8"}
_QUANTIZATIONS |= {name: f"bnb.{name}" for name in ("nf4", "nf4-dq", "fp4", "fp4-dq")}
_INSTEAD = (  # two ways to say one thing: the later layer's counts
    ("train.learning_rate", "optimizer.lr"),
    ("train.weight_decay", "optimizer.weight_decay"),
    ("train.beta1", "optimizer.betas"),
    ("train.beta2", "optimizer.betas"),
    ("train.lr_warmup_steps", "train.lr_warmup_fraction"),
    ("data.loss", "data.mask_prompt"),
    ("freeze_layers", "train_layers"),
)


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option: its dotted name, where it is in a `Job`, its type and its default."""

    name: str
    path: tuple[str, ...]
    hint: Any
    default: Any


@functools.cache
def options() -> Mapping[str, Option]:
    """All options by name, in the order in which they are shown and written."""
    return {option.name: option for option in _options(Job, "", ())}


def value(job: Job, option: Option) -> Any:
    """What a job has for an option."""
    return functools.reduce(getattr, option.path, job)


def make_job(*layers: Mapping[str, Any], method: MethodName | None = None) -> Job:
    """The job of several layers of options by their dotted names, of which later ones count before earlier ones.

    `data` alone is the name of a data set, a file or folder, or a hub id. `method` is what it has to be. ValueError
    for an option that isn't one, with the nearest, and for values that make no sense.
    """
    given: dict[str, Any] = {}
    for layer in layers:
        spelt = _spelt(layer)
        for name in _replaced(spelt):
            given.pop(name, None)
        given |= spelt
    stated = given.setdefault("method", method or "lora")
    if method is not None and stated != method:
        raise ValueError(f"the settings are of the method {stated}, not {method}; `llm finetune` takes either")
    if "train.min_lr" not in given:
        given |= _lowest_rate(given)
    nested: dict[str, Any] = {}
    for name, one in given.items():
        *groups, last = options()[name].path
        functools.reduce(lambda group, key: group.setdefault(key, {}), groups, nested)[last] = one
    try:
        return TypeAdapter(Job).validate_python(nested)
    except ValidationError as error:
        raise ValueError("; ".join(_sentences(error))) from None


def require_known(names: Iterable[str]) -> None:
    """ValueError for the first name that is no option, with the nearest that is one."""
    for name in names:
        if name not in options() and name not in _RENAMED and name != "data":
            raise ValueError(f"there is no setting {name}{nearest_option(name)}")


def nearest_option(name: str) -> str:
    """`; did you mean X?` for what a wrong name may have been meant to be, else an empty string."""
    known = [*options(), *_RENAMED, "data"]
    same_last = [each for each in known if each.rpartition(".")[2] == name.rpartition(".")[2]]
    found = difflib.get_close_matches(name, known, 1, 0.8) or same_last[:1]
    return f"; did you mean {found[0]}?" if found else ""


def _options(kind: Any, prefix: str, path: tuple[str, ...]) -> Iterator[Option]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        inner, where = hints[field.name], (*path, field.name)
        if is_dataclass(inner):
            yield from _options(inner, prefix + _PREFIXES.get(field.name, f"{field.name}."), where)
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        yield Option(name=prefix + field.name, path=where, hint=inner, default=default)


def _spelt(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer with every option under its one name, and values as the dataclasses take them."""
    require_known(layer)
    found: dict[str, Any] = {}
    for name, given in layer.items():
        name = _RENAMED.get(name, name)
        if name == "data":
            found |= {} if given is None else data_set(given)
        elif name in options() and not (given is None and not _optional(options()[name])):
            found[name] = given
    if isinstance(found.get("lora_targets"), str):
        found["lora_targets"] = (found["lora_targets"],)
    if found.get("quantize") in _QUANTIZATIONS:
        found["quantize"] = _QUANTIZATIONS[found["quantize"]]
    return found


def _replaced(layer: Mapping[str, Any]) -> set[str]:
    """What earlier layers say in vain: another data set, or the same thing in another way."""
    gone = {"data.name", "data.json_path", "data.val_path"} if {"data.name", "data.json_path"} & layer.keys() else set()
    gone |= {other for one, other in _INSTEAD if layer.get(one) is not None}
    return gone | {one for one, other in _INSTEAD if layer.get(other) is not None}


def _lowest_rate(given: Mapping[str, Any]) -> dict[str, Any]:
    """min_lr where it isn't given and the learning rate isn't above its default: a tenth of that."""
    rate = given.get("optimizer.lr") or given.get("train.learning_rate")
    try:
        return {"train.min_lr": float(rate) / 10} if rate and float(rate) <= options()["train.min_lr"].default else {}
    except (TypeError, ValueError):
        return {}  # which is told when it is validated


def _optional(option: Option) -> bool:
    return type(None) in get_args(option.hint)


def _sentences(error: ValidationError) -> Iterator[str]:
    """What pydantic found, in the words of the options, each once though a value may be of several types."""
    names = {option.path: option.name for option in options().values()}
    told: set[str] = set()
    for each in error.errors(include_url=False, include_context=True):
        found = next((name for path, name in names.items() if each["loc"][: len(path)] == path), None)
        if found is None:
            yield each["msg"].removeprefix("Value error, ")
        elif found not in told:
            told.add(found)
            yield f"{found} can't be {reprlib.repr(each['input'])}: {each['msg'][:1].lower()}{each['msg'][1:]}"
