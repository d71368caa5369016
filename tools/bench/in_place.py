"""Makes the packages of this checkout importable where they are not installed: on a machine without pip, say.

`use()` puts their sources on the path, with the metadata that an installation would have written beside them.
"""

import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def use() -> None:
    """For the packages that are not installed; their metadata lies in a temporary folder until the process ends."""
    global _folder
    missing = [path for path in sorted(ROOT.glob("llm_*/pyproject.toml")) if not _installed(path.parent.name)]
    if not missing:
        return
    _folder = tempfile.TemporaryDirectory(prefix="llm_in_place_")
    for path in missing:
        _describe(tomllib.loads(path.read_text())["project"], Path(_folder.name))
    sys.path[:0] = [_folder.name, *(str(path.parent / "src") for path in missing)]


_folder: tempfile.TemporaryDirectory[str] | None = None


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _describe(project: dict, folder: Path) -> None:
    """Name, version and entry points, as importlib.metadata reads them."""
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project.get("entry-points", {}).items()
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items()) for group, points in groups
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
