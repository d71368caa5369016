"""Find an architecture or an importer without importing any by name: packages announce themselves by entry point."""

import difflib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from torch import Tensor

ARCHITECTURES = "llm_blocks.architectures"
IMPORTERS = "llm_blocks.importers"

Importer: TypeAlias = Callable[[Path], tuple[Any, Iterator[tuple[str, Tensor]]]]
"""From a path to the architecture's Config and its tensors by sectioned name, one in memory at a time."""


class ArchitectureError(ValueError):
    """No installed package implements what was asked for."""


def find(model_type: object) -> ModuleType:
    """The module that implements this `model_type` of config.json: it has Config, Model, NAMES and PRESETS.

    Raises ArchitectureError naming the nearest known one.
    """
    return _find(ARCHITECTURES, "model_type", model_type, "docs/adding_a_model.md says how to add one")


def find_importer(kind: object) -> Importer:
    """The function that reads a foreign checkpoint format, e.g. "llama2c" or "meta"; ArchitectureError otherwise."""
    return _find(IMPORTERS, "format", kind, "a package adds one by the entry point group llm_blocks.importers")


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
    near = difflib.get_close_matches(shown, entries, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(sorted(entries)) or "none"
    raise ArchitectureError(f"no installed package implements {what} {shown!r}: {hint}Installed: {known}; {advice}")
