"""`write`: a checkpoint as a sepweight folder, one layer in memory at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .atomic import atomic_file, atomic_folder, copy_file
from .errors import WeightsError
from .layout import MANIFEST, Section, file_section, join_name, section_file, section_order, split_name
from .manifest import FileRecord, Manifest
from .safe import check_file_name
from .stored import Pending, pending, target_dtype, write_file
from .tying import find_tied
from .weights import Weights

Tensors = Weights | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]


def write(
    path: str | Path,
    tensors: Tensors,
    *,
    dtype: torch.dtype | None = None,
    tied: Mapping[str, str] | None = None,
    num_layers: int | None = None,
    config: Mapping[str, object] | None = None,
    files: Iterable[str | Path] = (),
) -> None:
    """Writes the sepweight folder `path`; it appears when it is complete, or not at all.

    `tensors`: open `Weights` (one tensor in memory at a time), a mapping of sectioned names, or pairs of sectioned name
    and tensor that come section by section (one layer in memory at a time). `dtype` converts the floating tensors.
    `tied` maps names to the names that store them, and is stored, not the tensor twice; what Weights and mappings share
    in memory is found without it. `num_layers` is that of the whole model when this is a part. `config` becomes
    config.json, `files` are copied beside it (tokenizer files and the like).
    WeightsError when `path` holds something already, or for a name that isn't begin.KEY, mid.LAYER.KEY or end.KEY.
    """
    path = Path(path)
    companions = _companions(files, config)
    tied = {**_shared(tensors), **(tied or {})}
    with atomic_folder(path) as folder:
        records: dict[str, FileRecord] = {}
        for section, items in _sections(tensors, dtype, tied):
            name = section_file(section)
            if name in records:
                raise WeightsError(f"{path}: the tensors of {name} must come one after another; sort them by section")
            with (folder / name).open("xb") as file:
                records[name] = write_file(file, items, path / name)
            items.clear()  # frees this layer before the next one is made
        _check_tied(tied, records, path)
        for name, source in companions.items():
            copy_file(source, folder / name)
        if config is not None:
            write_json(folder / "config.json", config)
        write_manifest(folder, records, tied, num_layers or _known_layers(tensors))


def write_manifest(
    folder: Path, records: Mapping[str, FileRecord], tied: Mapping[str, str], num_layers: int = 0
) -> None:
    """Writes sepweight.json for the files in `records`; `num_layers` is at least that of the files."""
    sections = {name: parsed[0] for name in records if (parsed := file_section(name))}
    counted = max((layer + 1 for kind, layer in sections.values() if kind == "mid"), default=0)
    ordered = sorted(records, key=lambda name: section_order(sections[name]))
    manifest = Manifest(
        num_layers=max(num_layers, counted), files={name: records[name] for name in ordered}, tied=dict(tied)
    )
    with atomic_file(folder / MANIFEST, overwrite=True) as file:
        file.write(manifest.to_json())


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a JSON object atomically."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def _companions(files: Iterable[str | Path], config: Mapping[str, object] | None) -> dict[str, Path]:
    companions: dict[str, Path] = {}
    for source in map(Path, files):
        name = check_file_name(source.name, ("",), source)
        taken = name in companions or name == MANIFEST or file_section(name) or (name == "config.json" and config)
        if taken or not source.is_file():
            raise WeightsError(f"{source}: can't be copied beside the weights; no such file, or its name is taken")
        companions[name] = source
    return companions


def _known_layers(tensors: Tensors) -> int:
    return tensors.num_layers if isinstance(tensors, Weights) else 0


def _shared(tensors: Tensors) -> dict[str, str]:
    """Names of tensors that are the same memory as an earlier one."""
    if isinstance(tensors, Weights):
        return dict(tensors.sectioned().tied)
    if not isinstance(tensors, Mapping):
        return {}  # a streamed tensor may be freed, and its address be another's
    return find_tied(_in_order(cast("Mapping[str, Tensor]", tensors)))


def _sections(
    tensors: Tensors, dtype: torch.dtype | None, tied: Mapping[str, str]
) -> Iterator[tuple[Section, dict[str, Pending]]]:
    """Section by section, key -> tensor, without the tied ones."""
    pairs = _from_weights(tensors.sectioned(), dtype) if isinstance(tensors, Weights) else _from_pairs(tensors, dtype)
    stored = ((*split_name(name), item) for name, item in pairs if name not in tied)
    for section, group in groupby(stored, key=lambda entry: entry[0]):
        items: dict[str, Pending] = {}
        for _, key, item in group:
            if key in items:
                raise WeightsError(f"tensor {join_name(section, key)!r} comes twice")
            items[key] = item
        yield section, items


def _from_weights(weights: Weights, dtype: torch.dtype | None) -> Iterator[tuple[str, Pending]]:
    for name in weights.names:
        info = weights.info(name)
        wanted = target_dtype(info.dtype, dtype)
        yield name, Pending(dtype=wanted, shape=info.shape, read=lambda name=name: weights.read(name))


def _from_pairs(
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, Pending]]:
    if isinstance(tensors, Mapping):
        tensors = _in_order(cast("Mapping[str, Tensor]", tensors))
    for name, tensor in tensors:
        yield name, pending(tensor, dtype)


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda pair: section_order(split_name(pair[0])[0]))


def _check_tied(tied: Mapping[str, str], records: Mapping[str, FileRecord], path: Path) -> None:
    for name, stored in tied.items():
        split_name(name)
        section, key = split_name(stored)
        record = records.get(section_file(section))
        if record is None or key not in record.tensors:
            raise WeightsError(f"{path}: {name!r} is tied to {stored!r}, which isn't among the tensors")
