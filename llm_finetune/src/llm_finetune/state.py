"""Checkpoints of a run: folders that appear whole or not at all, from which it goes on exactly.

OUT/step-000200/ has trained.safetensors (the parameters that train, by their names in the model, in their dtype),
optimizer.safetensors and state.json, which is written last and has the sizes and checksums of the others.
"""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_finetune.layout import Layout
from llm_finetune.optimizers import Optimizers
from llm_finetune.settings import Eval, Settings, make_settings
from llm_sepweight import WeightsError, read_json
from llm_sepweight.atomic import atomic_file, atomic_folder, sync_folder
from llm_sepweight.stored import Pending, write_file

VERSION = 1
TRAINED, OPTIMIZER, STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
_WHEN = "save_interval log_interval epochs max_steps max_tokens max_time keep keep_best patience shard"
MAY_CHANGE = {  # settings that say when to stop, log or save, and what changes a result in its last bits alone
    "train": frozenset(f"{_WHEN} micro_batch_size chunk_size activation_checkpointing".split()),
    "eval": frozenset(each.name for each in fields(Eval)),
    "log": frozenset(("project", "run", "group")),
}
_STEP = re.compile(r"step-(\d{6,})")
_LEFT = re.compile(r"\.(step-\d{6,}|final)\.tmp-[0-9a-f]+")


class ResumeError(ValueError):
    """A checkpoint that a run can't go on from, and why."""


@dataclass(kw_only=True)
class Progress:
    """How far a run is: steps and rows done, the best validation loss and at which step, evaluations since."""

    step: int = 0
    tokens: int = 0
    trained_tokens: float = 0.0
    skipped: int = 0  # steps that changed nothing: without a trained token, or too large for the loss scale
    seconds: float = 0.0
    train_loss: float | None = None
    val_loss: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    without_better: int = 0
    stopped: bool = False  # by patience
    loss_scale: float = 65536.0  # of 16-mixed, with the steps since it changed
    scale_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint is made of and read into. `model` and `data` are fingerprints of what it doesn't hold."""

    method: str
    layout: Layout
    optimizers: Optimizers
    settings: Settings
    model: str
    data: str
    progress: Progress = field(default_factory=Progress)


def save(out_dir: Path, snapshot: Snapshot, *, first: bool = True) -> Path:
    """Write the checkpoint of the present step into out_dir, a tensor at a time; all processes do, the first writes."""
    path, layout = path_of(out_dir, snapshot.progress.step), snapshot.layout
    tensors, numbers = snapshot.optimizers.state()
    trained = {name: layout.pending(name, each) for name, each in layout.parameters.items()}
    kept = {name: layout.pending(name.rpartition("/")[0], each) for name, each in tensors.items()}
    if not first:
        for part in (trained, kept):
            _read_along(part)
        return path
    if path.exists():
        _remove(path)
    with atomic_folder(path) as folder:
        _write(folder / TRAINED, trained)
        _write(folder / OPTIMIZER, kept)
        files = {name: _size_and_sum(folder / name) for name in (TRAINED, OPTIMIZER)}
        state = {
            "version": VERSION,
            "method": snapshot.method,
            "progress": asdict(snapshot.progress),
            "settings": asdict(snapshot.settings),
            "optimizer": numbers,
            "model": snapshot.model,
            "data": snapshot.data,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "files": files,
        }
        (folder / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    return path


def is_saved(out_dir: Path, snapshot: Snapshot) -> bool:
    """Whether the whole checkpoint of the present step is there."""
    path = path_of(out_dir, snapshot.progress.step)
    return path.exists() and _problem(path) is None


def path_of(out_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return out_dir / f"step-{step:06d}"


def newest(out_dir: Path) -> Path | None:
    """The whole checkpoint of the highest step in out_dir, None without any; damaged ones are passed over."""
    return next((path for path in reversed(checkpoints(out_dir)) if _problem(path) is None), None)


def checkpoints(out_dir: Path) -> list[Path]:
    """The checkpoint folders of out_dir by their steps, whole or not."""
    found = [path for path in out_dir.iterdir() if _STEP.fullmatch(path.name)] if out_dir.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def restore(path: Path, snapshot: Snapshot) -> list[str]:
    """Read a checkpoint into the parameters, optimizers and progress of a snapshot; give what differs but may.

    ResumeError for another method, other data, another model, settings that would train otherwise, and a damaged file;
    nothing is changed then.
    """
    state = _state(path)
    _require_same(path, state, snapshot)
    for name, (size, checksum) in _files(path, state).items():
        if _size_and_sum(path / name) != [size, checksum]:
            raise ResumeError(f"{path / name}: damaged, its checksum differs; resume from an earlier checkpoint")
    trained, kept = _tensors(path / TRAINED), _tensors(path / OPTIMIZER)
    _require_parameters(path, trained, snapshot.layout)
    own = {name: snapshot.layout.own(name.rpartition("/")[0], each) for name, each in kept.items()}
    snapshot.optimizers.restore((own, state["optimizer"]))
    _load(trained, snapshot.layout)
    for name, value in state["progress"].items():
        setattr(snapshot.progress, name, value)
    return _notes(state)


def read_trained(path: Path, snapshot: Snapshot) -> None:
    """Read the trained parameters of a checkpoint of this run, and nothing else of it."""
    trained = _tensors(path / TRAINED)
    _require_parameters(path, trained, snapshot.layout)
    _load(trained, snapshot.layout)


def prune(out_dir: Path, keep: int, best: int | None) -> None:
    """Remove whole checkpoints but the newest `keep` and that of the `best` step."""
    whole = [path for path in checkpoints(out_dir) if _problem(path) is None]
    kept = set(whole[-max(1, keep) :]) | {path for path in whole if path.name == f"step-{best or 0:06d}"}
    for path in whole:
        if path not in kept:
            _remove(path)


def clean(out_dir: Path) -> None:
    """Remove what a process that was ended left half written in out_dir."""
    for path in list(out_dir.iterdir()) if out_dir.is_dir() else []:
        if _LEFT.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def fingerprint(model: nn.Module, *, whole: bool = False) -> str:
    """A sha256 by which a run knows its base again: names and shapes of all that doesn't train, some numbers of each.

    A thousand numbers of each tensor, evenly apart, so that a large model takes no time. `whole` takes in what trains
    too, as it is now: for a run that compares with the model as it was.
    """
    digest = hashlib.sha256()
    frozen = {name: each for name, each in model.named_parameters() if whole or not each.requires_grad}
    for name, tensor in sorted({**frozen, **dict(model.named_buffers())}.items()):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // 1000)].cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_json(path / STATE)
    except WeightsError as error:
        raise ResumeError(f"{error}; resume from an earlier checkpoint") from error
    if state.get("version") != VERSION:
        raise ResumeError(f"{path}: its version is {state.get('version')!r} and this release reads {VERSION}")
    return state


def _files(path: Path, state: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    files = state.get("files")
    if not isinstance(files, dict) or set(files) != {TRAINED, OPTIMIZER}:
        raise ResumeError(f"{path / STATE}: doesn't list its two files; resume from an earlier checkpoint")
    return files


def _problem(path: Path) -> str | None:
    """Why a checkpoint isn't whole, by its state.json and the sizes of its files; None where it is."""
    try:
        sizes = {name: size for name, (size, _) in _files(path, _state(path)).items()}
    except (ValueError, TypeError) as error:
        return str(error)
    for name, size in sizes.items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            return f"{path / name}: missing or cut short"
    return None


def _require_same(path: Path, state: Mapping[str, Any], snapshot: Snapshot) -> None:
    if state["method"] != snapshot.method:
        raise ResumeError(f"{path}: was trained by the method {state['method']}, not {snapshot.method}")
    if state["data"] != snapshot.data:
        raise ResumeError(f"{path}: the rows have changed since; give the same data, or begin anew")
    if state["model"] != snapshot.model:
        raise ResumeError(f"{path}: was trained on another base model; give the same one")
    changed = list(_changed(asdict(make_settings(state["settings"])), asdict(snapshot.settings)))
    if changed:
        raise ResumeError(f"{path}: a run goes on with its own settings, and differs in {'; '.join(changed)}")


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], group: str = "") -> Iterator[str]:
    for name, value in now.items():
        if isinstance(value, dict):
            yield from _changed(before[name], value, name)
        elif value != before[name] and name not in MAY_CHANGE.get(group, ()):
            yield f"{group}{'.' * bool(group)}{name}, which was {before[name]} and is {value}"


def _require_parameters(path: Path, found: Mapping[str, Tensor], layout: Layout) -> None:
    wanted = layout.parameters
    if found.keys() != wanted.keys():
        other = sorted(found.keys() ^ wanted.keys())[0]
        raise ResumeError(f"{path}: other parameters train here than there, such as {other}")
    for name, tensor in found.items():
        if (tensor.shape, tensor.dtype) != (layout.shape(name), wanted[name].dtype):
            raise ResumeError(f"{path}: {name} has another shape or dtype here")


@torch.no_grad()
def _load(found: Mapping[str, Tensor], layout: Layout) -> None:
    for name, parameter in layout.parameters.items():
        parameter.copy_(layout.own(name, found[name]))


def _write(path: Path, tensors: Mapping[str, Pending]) -> None:
    with atomic_file(path) as file:
        write_file(file, tensors, path)


def _read_along(tensors: Mapping[str, Pending]) -> None:
    """Read each tensor when `write_file` does, in another process, so that parts can come together there."""
    for name in sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize):
        tensors[name].read()


def _notes(state: Mapping[str, Any]) -> list[str]:
    now = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return [f"{name} is {value}, was {state[name]}" for name, value in now.items() if state[name] != value]


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ResumeError(f"{path}: can't be read ({error}); resume from an earlier checkpoint") from error


def _size_and_sum(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _remove(path: Path) -> None:
    """Take a folder away in one rename, so that it is never there in part under its name."""
    gone = path.with_name(f".{path.name}.tmp-{secrets.token_hex(6)}")
    path.rename(gone)
    sync_folder(path.parent)
    shutil.rmtree(gone)
