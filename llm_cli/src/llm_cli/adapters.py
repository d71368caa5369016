"""Adapters of finetuning in use: the folder of one and its base, and which of them a call of the model has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from llm_blocks import Recorded
from llm_cli import models
from llm_finetune import adapters, base_of, is_adapter, load_adapter, set_adapter
from llm_finetune.lora import Choice, lora_layers

DEFAULT = "default"
"""The name of an adapter whose folder was given as the model, and of one that was finetuned here."""


def located(model: str | Path | None) -> Path | None:
    """The folder of the adapter that a model's name means: a path or a name under checkpoints/; None for all else."""
    name = "" if model is None else os.fspath(model)
    places = (Path(os.path.expanduser(name)), models.checkpoint_root() / name) if name else ()
    return next((path for path in places if path.is_dir() and is_adapter(path)), None)


def base_path(folder: Path, *, download: bool = True, access_token: str | None = None) -> Path:
    """The folder of the base model that an adapter's folder names: a path, also one from that folder, or as any model.

    ModelNotFoundError where there is none, with the way to name another; WeightsError for an adapter that is damaged.
    """
    said = base_of(folder)
    way_out = (
        f"give the base and the adapter by themselves: `llm generate BASE --adapter {folder}`, in Python "
        f"LLM.load(BASE, adapters={{'NAME': {str(folder)!r}}})"
    )
    if said is None:
        raise models.ModelNotFoundError(f"the adapter '{folder}' doesn't name its base model; {way_out}")
    beside = folder / said
    try:
        return models.resolve(beside if beside.is_dir() else said, download=download, access_token=access_token)
    except models.ModelNotFoundError as error:
        raise models.ModelNotFoundError(
            f"the base model '{said}' of the adapter '{folder}' isn't to be had ({error}); {way_out}"
        ) from error


def read_named(given: Sequence[str]) -> dict[str, Path]:
    """`NAME=PATH` or `PATH` alone, each as a name and a folder; a path alone is named by its last part.

    ValueError for two of one name.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        folder = Path(os.path.expanduser(path if equals else text))
        name = name if equals else folder.resolve().name
        if name in found:
            raise ValueError(f"two adapters have the name '{name}'; give them others, as in sql={folder}")
        found[name] = folder
    return found


def put_on(model: Any, folders: Mapping[str, Path]) -> None:
    """Put the adapters of folders onto a model, by name, for use alone; the first is the active one.

    WeightsError and ValueError for a folder that holds none, a damaged one, and one of another model.
    """
    for name, folder in folders.items():
        load_adapter(model, folder, name=name)
    if folders and next(iter(folders)) in adapters(model):
        set_adapter(model, next(iter(folders)))
    model.requires_grad_(False).eval()


def active(model: Any) -> tuple[tuple[str, float], ...]:
    """The adapters that a call of the model has now, with their weights."""
    if isinstance(model, Adapted):
        return model.weights
    if not isinstance(model, nn.Module):  # compiled steps, which go with the model's own
        return ()
    found = {name: weight for layer in lora_layers(model).values() for name, weight in layer.active.items()}
    return tuple(sorted(found.items()))


def recorded(model: Any) -> Any:
    """The model with its decoding steps recorded where they can be (`llm_blocks.Recorded`), also under a choice."""
    return model.recorded() if isinstance(model, Adapted) else Recorded(model)


class Adapted:
    """A model under a choice of its adapters: called as the model is, which before and after has its own choice.

    So generations with different adapters may take turns, and what one has read is never taken for another's: caches
    know a model by its identity. ValueError for an unknown name and for a weight that is no number.
    """

    def __init__(self, model: Any, choice: Choice) -> None:
        weights = {} if choice is None else {choice: 1.0} if isinstance(choice, str) else dict(choice)
        known = adapters(model)
        for name, weight in weights.items():
            if name not in known:
                raise ValueError(f"there is no adapter {name!r}; there are {', '.join(known) or 'none'}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not abs(weight) < float("inf"):
                raise ValueError(f"the weight of an adapter is a finite number, not {weight!r}")
        self.model = self._call = model
        self.weights = tuple(sorted(weights.items()))
        self._layers = [
            (layer, {name: weight for name, weight in weights.items() if name in layer.slots})
            for layer in lora_layers(model).values()
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)  # its config, parameters, caches

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        with self._chosen():
            return self._call(*arguments, **keywords)

    def recorded(self) -> Adapted:
        """The same with recorded steps."""
        other = Adapted(self.model, dict(self.weights))
        other._call = Recorded(self.model)
        return other

    @contextmanager
    def _chosen(self) -> Iterator[None]:
        before = [layer.active for layer, _ in self._layers]
        try:
            for layer, chosen in self._layers:
                layer.active = chosen
            yield
        finally:
            for (layer, _), own in zip(self._layers, before, strict=True):
                layer.active = own
