"""Which files a part of a model needs."""

from collections.abc import Mapping
from pathlib import Path

from .layout import MANIFEST, part_sections, section_file, section_order, split_name
from .manifest import read_manifest
from .opening import open
from .spec import PartSpec


def get_filenames(
    spec: str | PartSpec,
    *,
    num_layers: int | None = None,
    path: str | Path | None = None,
    extension: str = ".safetensors",
) -> list[str]:
    """Names of the sepweight files that hold the part `spec`, in order, without the folder.

    "f" doesn't say how many layers there are: give `num_layers`, or the `path` of a checkpoint. With the path of a
    folder that has a sepweight.json (its other files may be elsewhere still) the files of tied weights are added: an
    end whose head is the embedding needs begin.safetensors too. `extension=".pth"` gives the names of the older layout.
    ValueError when the number of layers is needed and absent, or the spec goes beyond it.
    """
    part = PartSpec.parse(spec) if isinstance(spec, str) else spec
    tied: Mapping[str, str] = {}
    if path is not None:
        num_layers, tied = _layers_and_tied(Path(path))
    if num_layers is not None:
        part = part.resolve(num_layers)
    elif part.is_full:
        raise ValueError("part spec 'f' doesn't say how many layers there are; give num_layers= or path=")
    wanted = part_sections(part)
    stored = {split_name(tied[name])[0] for name in tied if split_name(name)[0] in wanted}
    # A part keeps the order of its ranges; what its tied weights need besides comes first.
    besides = sorted(stored - set(wanted), key=section_order)
    return [section_file(section, extension) for section in besides + wanted]


def _layers_and_tied(path: Path) -> tuple[int, Mapping[str, str]]:
    if (path / MANIFEST).exists():
        manifest = read_manifest(path / MANIFEST)
        return manifest.num_layers, manifest.tied
    with open(path) as weights:
        return weights.num_layers, weights.sectioned().tied
