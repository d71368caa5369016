"""`verify`: reads a whole checkpoint and finds what is damaged."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import WeightsError
from .formats.safetensors_file import SafetensorsFile
from .layout import MANIFEST, file_section, join_name
from .manifest import FileRecord, read_manifest
from .opening import open
from .safe import named_files

_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What `verify` looked at: number of files, their bytes, and whether there were checksums to compare with."""

    files: int
    bytes: int
    checksums: bool


def verify(path: str | Path) -> Verified:
    """Checks every file of a checkpoint; WeightsError names each damaged file and tensor.

    In a sepweight folder every file must be there with the size and sha256 that sepweight.json says. The other layouts
    record no checksums: there, headers, names and sizes are checked.
    """
    path = Path(path)
    if (path / MANIFEST).exists():
        return _verify_manifest(path)
    with open(path) as weights:
        files = {weights.info(name).file for name in weights.names}
    return Verified(files=len(files), bytes=sum(file.stat().st_size for file in files), checksums=False)


def _verify_manifest(folder: Path) -> Verified:
    manifest = read_manifest(folder / MANIFEST)
    paths = named_files(folder, manifest.files, (".safetensors",), folder / MANIFEST)
    damage = [problem for name, record in manifest.files.items() if (problem := _damage(paths[name], record))]
    if damage:
        raise WeightsError("; ".join(damage))
    with open(folder):  # names, shapes and dtypes are as sepweight.json says
        return Verified(files=len(paths), bytes=sum(r.bytes for r in manifest.files.values()), checksums=True)


def _damage(path: Path, record: FileRecord) -> str | None:
    """What is wrong with a file, in words, or None."""
    size = path.stat().st_size
    if size == record.bytes and _file_sha256(path) == record.sha256:
        return None
    try:
        return _damaged_tensors(path, record)
    except WeightsError as error:  # the header is hit, or the file is cut
        return str(error)


def _damaged_tensors(path: Path, record: FileRecord) -> str:
    file = SafetensorsFile(path)
    parsed = file_section(path.name)
    assert parsed is not None, "named in a manifest, whose names were checked"
    names = []
    for key, tensor in record.tensors.items():
        if key not in file.infos or _tensor_sha256(file, key) != tensor.sha256:
            names.append(join_name(parsed[0], key))
    return f"{path}: damaged, {'tensor ' + ', '.join(names) if names else 'its header'} isn't what was written"


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _tensor_sha256(file: SafetensorsFile, key: str) -> str:
    data = file.view(key).reshape(-1).view(torch.uint8).numpy().data
    return hashlib.sha256(data).hexdigest()
