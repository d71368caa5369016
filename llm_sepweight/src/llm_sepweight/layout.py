"""Names: of the sections of a model, of the tensors in them, and of the files that hold them.

A sectioned name is `begin.KEY`, `mid.LAYER.KEY` or `end.KEY`; KEY is the tensor's name inside its file.
"""

import re

from .errors import WeightsError
from .spec import MAX_LAYERS, PartSpec

MANIFEST = "sepweight.json"
Section = tuple[str, int]  # ("begin", 0), ("mid", layer), ("end", 0)

_ORDER = {"begin": 0, "mid": 1, "end": 2}
_FILE = re.compile(r"(begin|start|end|mid\.([0-9]{5}))\.(safetensors|pth)")
_LAYER = re.compile(r"[0-9]{1,5}")


def split_name(name: str) -> tuple[Section, str]:
    """Section and key of a sectioned name, e.g. "mid.3.mlp.up.weight" -> (("mid", 3), "mlp.up.weight")."""
    head, _, rest = name.partition(".")
    head = "begin" if head == "start" else head
    layer = "0"
    if head == "mid":
        layer, _, rest = rest.partition(".")
    if head not in _ORDER or not rest or not _LAYER.fullmatch(layer):
        raise WeightsError(f"tensor name {name!r}: must be begin.KEY, mid.N.KEY or end.KEY, N below {MAX_LAYERS}")
    return (head, int(layer)), rest


def join_name(section: Section, key: str) -> str:
    """The sectioned name of `key` in `section`."""
    kind, layer = section
    return f"mid.{layer}.{key}" if kind == "mid" else f"{kind}.{key}"


def section_order(section: Section) -> tuple[int, int]:
    """Sort key: begin, the layers upward, end."""
    return _ORDER[section[0]], section[1]


def section_file(section: Section, extension: str = ".safetensors") -> str:
    """File name of a section, e.g. ("mid", 3) -> "mid.00003.safetensors"."""
    kind, layer = section
    return f"mid.{layer:05d}{extension}" if kind == "mid" else f"{kind}{extension}"


def file_section(file_name: str) -> tuple[Section, str] | None:
    """Section and extension that a file name means, or None for any other file. `start` means begin."""
    match = _FILE.fullmatch(file_name)
    if match is None:
        return None
    kind = {"start": "begin"}.get(match[1], match[1].partition(".")[0])
    return (kind, int(match[2] or 0)), "." + match[3]


def part_sections(part: PartSpec) -> list[Section]:
    """The sections of a resolved part, in order."""
    layers: list[Section] = [("mid", layer) for layer in part.layers()]
    return [("begin", 0)] * part.begin + layers + [("end", 0)] * part.end
