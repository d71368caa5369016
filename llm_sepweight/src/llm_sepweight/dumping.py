"""`dump`: adds a state dictionary to a sepweight folder. Several calls merge, for checkpoints that come in shards."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .atomic import atomic_file, sync_folder
from .deciders import Decider, place
from .errors import WeightsError
from .formats.safetensors_file import SafetensorsFile
from .layout import MANIFEST, Section, file_section, join_name, section_file, split_name
from .manifest import FileRecord, Manifest, read_manifest
from .stored import Pending, pending, write_file
from .writer import write_manifest


def dump(decider: Decider, state_dict: Mapping[str, Tensor], out_path: str | Path) -> None:
    """Adds the tensors, where the decider puts them, to the sepweight folder `out_path` (made if absent).

    Files are replaced one by one and sepweight.json, which marks the folder as complete, is away meanwhile: after an
    interruption the folder is refused, and has to be written anew. Nothing else may write there at the same time.
    WeightsError when a tensor is there already, before anything is changed.
    """
    folder = Path(out_path)
    added = _by_section(state_dict, decider)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = _existing(folder)
    files = {name: SafetensorsFile(folder / name) for name in manifest.files}
    for section, tensors in added.items():
        _refuse_present(section, tensors, files, manifest)
    (folder / MANIFEST).unlink(missing_ok=True)
    sync_folder(folder)
    records = dict(manifest.files)
    for section, tensors in added.items():
        name = section_file(section)
        records[name] = _rewrite(folder / name, files.get(name), tensors)
    write_manifest(folder, records, manifest.tied, manifest.num_layers)


def _by_section(state_dict: Mapping[str, Tensor], decider: Decider) -> dict[Section, dict[str, Tensor]]:
    result: dict[Section, dict[str, Tensor]] = {}
    for name, tensor in state_dict.items():
        placed = place(name, decider)
        if placed is None:
            continue
        section, key = split_name(placed)
        if key in result.setdefault(section, {}):
            raise WeightsError(f"the decider puts {name!r} and another tensor at {placed!r}")
        result[section][key] = tensor
    return result


def _existing(folder: Path) -> Manifest:
    if (folder / MANIFEST).exists():
        return read_manifest(folder / MANIFEST)
    there = [path for path in folder.iterdir() if file_section(path.name)]
    if there:
        raise WeightsError(
            f"{there[0]}: there without {MANIFEST}, from an interrupted or older writer; choose another folder"
        )
    return Manifest(num_layers=0, files={})


def _refuse_present(
    section: Section, tensors: Mapping[str, Tensor], files: Mapping[str, SafetensorsFile], manifest: Manifest
) -> None:
    file_name = section_file(section)
    there = files[file_name].infos if file_name in files else {}
    for key in tensors:
        name = join_name(section, key)
        if key in there or name in manifest.tied:
            raise WeightsError(f"{file_name}: holds {name!r} already, and nothing is overwritten")


def _rewrite(path: Path, file: SafetensorsFile | None, added: Mapping[str, Tensor]) -> FileRecord:
    """The file with the added tensors; what it held is copied from its map, a tensor at a time."""
    items: dict[str, Pending] = {}
    if file is not None:
        for key, info in file.infos.items():
            items[key] = Pending(dtype=info.dtype, shape=info.shape, read=lambda key=key: file.view(key))
    items |= {key: pending(tensor) for key, tensor in added.items()}
    with atomic_file(path, overwrite=True) as writer:
        return write_file(writer, items, path)
