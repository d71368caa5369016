"""The settings of a run as a YAML file: read from a path, an https address or a recipe's name, and written."""

import reprlib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import yaml

from llm_finetune.job import Job
from llm_finetune.job_options import make_job, options, require_known, value
from llm_finetune.option_help import HELP
from llm_finetune.recipes import recipe_path

NAME = "settings.yaml"
MOST_BYTES = 10**6
MOST_DEPTH = 8
TIMEOUT = 30  # seconds
_GROUPS = ("data", "train", "eval", "log", "optimizer")
_HEADER = """\
# The settings of a run of finetuning. `llm finetune --config FILE` takes them again; options of the command line count
# before those of the file.
"""


def read_settings(source: str | Path, **overrides: Any) -> Job:
    """The job that a file, an https address or a recipe's name has; `overrides` are options by dotted name.

    ValueError for an unknown setting (with the nearest known one), and for text that is no such file.
    """
    return make_job(read_options(source), overrides)


def read_options(source: str | Path) -> dict[str, Any]:
    """The options of a file, an https address or a recipe's name, by their dotted names, as `make_job` takes them.

    Classes of older files (data: {class_path: litgpt.data.Alpaca2k, init_args: ...}) are looked up by their last word
    in the table of known ones: nothing is imported. Raises ValueError, and OSError for a file that can't be read.
    """
    where = str(source)
    raw = _parsed(_text(where), where)
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ValueError(f"{where} has no settings: it must be lines such as 'lora_r: 8'")
    try:
        found = dict(_flat(raw))
        require_known(found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return found


def write_settings(job: Job, path: str | Path) -> Path:
    """Write a job's settings, each with what it means, so that `read_settings` gives an equal job; gives the path.

    An access token is never among them. The file is replaced whole or not at all.
    """
    from llm_sepweight.atomic import atomic_file  # brings torch along, which reading does without

    path = Path(path)
    with atomic_file(path, overwrite=True) as file:
        file.write(settings_text(job).encode())
    return path


def settings_text(job: Job) -> str:
    """The same as text."""
    lines = [_HEADER]
    groups: dict[str, list[str]] = {name: [] for name in _GROUPS}
    for name, option in options().items():
        group, _, last = name.rpartition(".")
        if last == "access_token" or not _belongs(job, name):
            continue
        indent = "  " if group else ""
        entry = [f"{indent}# {HELP[name]}", f"{indent}{last}: {_yaml(value(job, option))}", ""]
        (groups[group] if group else lines).extend(entry)
    for name, entries in groups.items():
        lines += [f"{name}:", "", *entries]
    return "\n".join(lines)


def _belongs(job: Job, name: str) -> bool:
    """Whether an option means something for the job's method; the others are at their defaults."""
    prefix = name.partition("_")[0]
    return prefix not in ("lora", "adapter") or job.method.startswith(prefix)


def _yaml(given: Any) -> str:
    """A value on one line."""
    plain = list(given) if isinstance(given, tuple) else given
    texts = [each for each in (plain if isinstance(plain, list) else [plain]) if isinstance(each, str)]
    style = None if all(text.isprintable() for text in texts) else '"'
    text = yaml.safe_dump(plain, allow_unicode=True, width=float("inf"), default_flow_style=True, default_style=style)
    return text.removesuffix("...\n").removesuffix("\n")


def _flat(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, given in raw.items():
        if key == "access_token" and given is not None:
            raise ValueError("an access token doesn't belong in a file of settings; set HF_TOKEN instead")
        if key in _GROUPS and isinstance(given, dict):
            yield from _group(key, given)
        elif key not in ("access_token", *_GROUPS) or (key in ("data", "optimizer") and given is not None):
            yield key, given
        elif given is not None:
            raise ValueError(
                f"{key} has settings below it, such as '{_example(key)}', and can't be {reprlib.repr(given)}"
            )


def _group(name: str, raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The options of a group, also of one that is written as a class and its arguments."""
    if "class_path" in raw and name in ("data", "optimizer"):
        unknown = raw.keys() - {"class_path", "init_args"}
        if unknown:
            raise ValueError(f"{name} has class_path, beside which there is only init_args, not {sorted(unknown)[0]}")
        kind, arguments = raw["class_path"], raw.get("init_args") or {}
        if not isinstance(kind, str) or not isinstance(arguments, dict):
            raise ValueError(f"{name}.class_path is a name, and {name}.init_args has settings below it")
        yield name, kind.rpartition(".")[2]
        raw = arguments
    for key, given in raw.items():
        yield f"{name}.{key}", given


def _parsed(text: bytes, where: str) -> Any:
    """YAML without what could make much out of little: aliases, and groups within groups."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("there are no aliases (*name) in a file of settings; write the value out")
            if depth > MOST_DEPTH:
                raise ValueError("its groups are too deep")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:  # of a value, such as a date that there isn't
        raise ValueError(f"{where}: {error}") from error


def _example(group: str) -> str:
    return next(name.rpartition(".")[2] for name in options() if name.startswith(f"{group}.")) + ": ..."


def _text(source: str) -> bytes:
    if "://" in source:
        return _fetched(source)
    path = Path(source)
    if not path.is_file():
        path = recipe_path(source)
    with path.open("rb") as file:
        return _capped(file, source)


def _fetched(address: str, scheme: str = "https") -> bytes:
    """What an address has. ValueError for another scheme, for more than MOST_BYTES and for a redirect elsewhere."""
    if urlsplit(address).scheme.lower() != scheme:
        raise ValueError(f"{address}: settings are read from files and from {scheme} addresses alone")
    opener = urllib.request.build_opener(_SameScheme(scheme))
    request = urllib.request.Request(address, headers={"User-Agent": "llm_finetune"})
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return _capped(response, address)
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise ValueError(f"{address} can't be read: {reason}; save it as a file and give that") from error


def _capped(file: IO[bytes], source: str) -> bytes:
    text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"{source} is larger than {MOST_BYTES:,} bytes, so it is no file of settings")
    return text


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within one scheme."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme.lower() != self._scheme:
            raise ValueError(f"{req.full_url} leads away from {self._scheme}, to {newurl}, which isn't followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def effective(job: Job) -> Job:
    """A job as its file has it: with the folder that it writes to, and no order to resume."""
    return replace(job, out_dir=job.folder, resume=False)
