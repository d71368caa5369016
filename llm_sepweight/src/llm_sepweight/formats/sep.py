"""A sepweight folder: begin, mid.00000 …, end; .safetensors with a sepweight.json, or the older .pth without."""

from pathlib import Path

from ..errors import WeightsError
from ..layout import MANIFEST, Section, file_section, join_name, split_name
from ..manifest import FileRecord, Manifest, read_manifest
from ..safe import check_file_name, named_files, names_in
from .base import Found, TensorFile
from .safetensors_file import SafetensorsFile
from .torch_file import TorchFile


def find(folder: Path) -> Found | None:
    """The weights of a sepweight folder, under sectioned names, or None where there are none."""
    if (folder / MANIFEST).exists():
        return _from_manifest(folder, read_manifest(folder / MANIFEST))
    found = [folder / name for name in names_in(folder) if file_section(name)]
    old = [path for path in found if path.suffix == ".pth"]
    if found and not old:
        raise WeightsError(
            f"{folder}: has {found[0].name} but no {MANIFEST}, which is written last: incomplete, write it again"
        )
    return _from_pth(folder, old) if old else None


def _from_manifest(folder: Path, manifest: Manifest) -> Found:
    source = folder / MANIFEST
    for name in manifest.files:
        check_file_name(name, (".safetensors",), source)
    # A machine that runs some layers holds their files alone, so absent ones matter only when they are asked for.
    present = [name for name in manifest.files if (folder / name).exists()]
    files: dict[Section, TensorFile] = {}
    for name, path in named_files(folder, present, (".safetensors",), source).items():
        file = SafetensorsFile(path)
        _check_record(file, manifest.files[name])
        _add(files, name, file)
    entries = _entries({section: (file, _same_keys(file)) for section, file in files.items()})
    return Found(
        layout="sepweight",
        path=folder,
        entries=_with_tied(entries, manifest.tied),
        sectioned=True,
        tied=dict(manifest.tied),
        num_layers=manifest.num_layers,
    )


def _check_record(file: SafetensorsFile, record: FileRecord) -> None:
    for key in record.tensors.keys() | file.infos.keys():
        info, said = file.infos.get(key), record.tensors.get(key)
        if info is None or said is None or (info.shape, info.dtype) != (said.shape, said.dtype):
            raise WeightsError(f"{file.path}: tensor {key[:200]!r} isn't as {MANIFEST} says; the file was changed")
    size = file.path.stat().st_size
    if size != record.bytes:
        raise WeightsError(f"{file.path}: has {size} bytes, {MANIFEST} says {record.bytes}")


def _with_tied(entries: dict[str, tuple[TensorFile, str]], tied: dict[str, str]) -> dict[str, tuple[TensorFile, str]]:
    return entries | {name: entries[stored] for name, stored in tied.items() if stored in entries}


def _from_pth(folder: Path, paths: list[Path]) -> Found:
    files: dict[Section, TensorFile] = {}
    for path in paths:
        _add(files, path.name, TorchFile(path))
    tied = {
        join_name(section, name): join_name(section, stored)
        for section, file in files.items()
        for name, stored in file.tied.items()
    }
    entries = _entries({section: (file, _bare_keys(section, file)) for section, file in files.items()})
    return Found(layout="sepweight-pth", path=folder, entries=entries, sectioned=True, tied=tied)


def _add(files: dict[Section, TensorFile], name: str, file: TensorFile) -> None:
    parsed = file_section(name)
    if parsed is None:
        raise WeightsError(f"{file.path}: must be named begin, mid.00000 … or end")
    if parsed[0] in files:
        raise WeightsError(f"{file.path}: holds the same section as {files[parsed[0]].path.name}; remove one")
    files[parsed[0]] = file


def _same_keys(file: TensorFile) -> dict[str, str]:
    return {key: key for key in file.infos}


def _bare_keys(section: Section, file: TensorFile) -> dict[str, str]:
    """Bare key -> key in the file: some older writers put `h.LAYER.` before every key of a layer."""
    prefix = f"h.{section[1]}."
    if section[0] == "mid" and all(key.startswith(prefix) for key in file.infos):
        return {key.removeprefix(prefix): key for key in file.infos}
    return _same_keys(file)


def _entries(files: dict[Section, tuple[TensorFile, dict[str, str]]]) -> dict[str, tuple[TensorFile, str]]:
    entries: dict[str, tuple[TensorFile, str]] = {}
    for section, (file, keys) in files.items():
        for key, key_in_file in keys.items():
            name = join_name(section, key)
            split_name(name)  # an empty key is no name
            entries[name] = (file, key_in_file)
    return entries
