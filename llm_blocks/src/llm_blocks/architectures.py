"""Find an architecture or an importer without importing any by name: packages announce themselves by entry point."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from llm_blocks.spelling import misspelt
from llm_sepweight import Weights

ARCHITECTURES = "llm_blocks.architectures"
IMPORTERS = "llm_blocks.importers"

ADDING = (
    f"a package adds one by the entry point group {ARCHITECTURES}, as the page 'Adding a model family' "
    "(docs/adding_a_model.md) of this project's documentation tells"
)


@dataclass(frozen=True, kw_only=True)
class Importer:
    """A reader of checkpoints in a foreign format, which have no config.json.

    `claims(path)` tells by names and first bytes alone whether a file or folder is of the format. `open(path)` gives
    the architecture's Config and the tensors under our sectioned names and in our layout, none of them read yet; it
    raises ValueError for a checkpoint that is damaged or can't be honoured.
    """

    claims: Callable[[Path], bool]
    open: Callable[[Path], tuple[Any, Weights]]


class ArchitectureError(ValueError):
    """No installed package implements what was asked for."""


def find(model_type: object) -> ModuleType:
    """The module that implements this `model_type` of config.json: it has Config, Model, NAMES and PRESETS.

    Raises ArchitectureError naming the nearest known one.
    """
    return _find(ARCHITECTURES, "model_type", model_type, ADDING)


def find_importer(kind: object) -> Importer:
    """The reader of a foreign checkpoint format, e.g. "llama2c" or "meta"; ArchitectureError otherwise."""
    return _find(IMPORTERS, "format", kind, f"a package adds one by the entry point group {IMPORTERS}")


def claimed_by(path: Path) -> str | None:
    """The foreign format, of those that installed packages read, which the file or folder is in; None for no one."""
    return next((kind for kind in installed_importers() if find_importer(kind).claims(path)), None)


def installed_architectures() -> list[str]:
    """Each `model_type` that an installed package implements, sorted."""
    return sorted(entry_points(group=ARCHITECTURES).names)


def installed_importers() -> list[str]:
    """Each foreign checkpoint format that an installed package reads, sorted."""
    return sorted(entry_points(group=IMPORTERS).names)


def _find(group: str, what: str, wanted: object, advice: str) -> Any:
    entries: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=group)}
    if isinstance(wanted, str) and wanted in entries:
        return entries[wanted].load()
    shown = str(wanted)[:100]  # it may come from a stranger's file
    # A known name with something behind it, such as olmoe, is a relative and no misspelling.
    near = misspelt(shown, (name for name in entries if not shown.startswith(name)), cutoff=0.88)
    hint = f"did you mean {near!r}? Installed are" if near else "installed are"
    known = ", ".join(sorted(entries)) or "none"
    raise ArchitectureError(f"no installed package implements {what} {shown!r}: {hint} {known}; {advice}")
