"""What is believed of files that others made: JSON within limits, and file names that can't leave their folder."""

import json
import os
import stat
import unicodedata
from collections.abc import Iterable
from io import FileIO
from pathlib import Path, PureWindowsPath

from .errors import WeightsError

MAX_JSON_BYTES = 64 * 2**20

_FORBIDDEN = set('/\\:*?"<>|')
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    f"{device}{digit}" for device in ("COM", "LPT") for digit in "0123456789¹²³"
}


def read_json(path: str | Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, object]:
    """The object in a JSON file. WeightsError names the file when it is absent, too big, malformed or no object."""
    path = Path(path)
    with open_file(path) as file:
        data = file.readall() if os.fstat(file.fileno()).st_size <= max_bytes else None
    if data is None:
        raise WeightsError(f"{path}: larger than {max_bytes} bytes, which is more than such a file needs")
    refuse_pointer(data, path)
    return parse_json(data, path)


def parse_json(data: bytes, path: Path) -> dict[str, object]:
    """The object that `data`, read from `path`, spells in UTF-8 JSON; a key may come once."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise WeightsError(f"{path}: JSON nested too deeply") from None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValueError as error:  # also UnicodeDecodeError, JSONDecodeError and over-long integers
        raise WeightsError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: must hold a JSON object, not {type(value).__name__}")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise WeightsError(f"duplicate key {twice[:200]!r} in JSON")
    return result


def require_file(path: Path) -> None:
    """Refuses what isn't a regular file, before opening it: a FIFO would block for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WeightsError(f"{path}: can't be read ({reason})") from None
    if not stat.S_ISREG(mode):
        raise WeightsError(f"{path}: not a regular file")


def open_file(path: Path) -> FileIO:
    """A regular file opened for reading, without a buffer of its own."""
    require_file(path)
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from None


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; WeightsError where it can't be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise WeightsError(f"{folder}: can't be listed ({error.strerror})") from None


def refuse_pointer(head: bytes, path: Path) -> None:
    """Refuses what git leaves in a file's place when LFS isn't installed; `head` is how the file begins."""
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git LFS pointer instead of the file; run 'git lfs pull' or download it again")


def check_file_name(name: object, suffixes: tuple[str, ...], source: Path) -> str:
    """`name` itself if it is a plain file name on every operating system; `source` is the file that names it."""
    if not isinstance(name, str):
        raise WeightsError(f"{source}: a file name must be a string, not {type(name).__name__}")
    rule = _broken_rule(name)
    if rule is None and not name.endswith(suffixes):
        rule = f"must end in {' or '.join(suffixes)}"
    if rule:
        raise WeightsError(f"{source}: file name {_shown(name)} is refused: {rule}")
    return name


def _broken_rule(name: str) -> str | None:
    if not name or len(name.encode("utf-8", "surrogatepass")) > 255:
        return "must have between 1 and 255 bytes"
    if any(unicodedata.category(char) in ("Cc", "Cf", "Cs") for char in name):
        return "holds a control character"
    if _FORBIDDEN & set(name) or name in (".", "..") or PureWindowsPath(name).drive:
        return "must be a plain name inside the folder, without path, drive or wildcard"
    if name != name.strip(" ") or name.endswith("."):
        return "begins with a space or ends in a dot or space, which Windows drops"
    if name.split(".")[0].rstrip(" ").upper() in _DEVICES:
        return "is a device on Windows"
    return None


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:100] + "…")


def named_files(folder: Path, names: Iterable[object], suffixes: tuple[str, ...], source: Path) -> dict[str, Path]:
    """The paths in `folder` that the file `source` names; each a different regular file that doesn't lie outside.

    A link may lead to a file of the same folder, or from a Hugging Face cache snapshot to that model's blobs.
    """
    found: dict[str, Path] = {}
    folded: dict[str, str] = {}
    files: dict[tuple[int, int], str] = {}
    for name in dict.fromkeys(check_file_name(name, suffixes, source) for name in names):
        fold = unicodedata.normalize("NFKC", name).casefold()
        if fold in folded:
            raise WeightsError(f"{source}: {name!r} and {folded[fold]!r} differ only in case and may be one file")
        folded[fold] = name
        found[name] = path = _inside(folder, name, source)
        status = path.stat()
        same = files.setdefault((status.st_dev, status.st_ino), name)
        if same != name:
            raise WeightsError(f"{source}: {name!r} and {same!r} are one and the same file")
    return found


def _inside(folder: Path, name: str, source: Path) -> Path:
    path = folder / name
    require_named(path, source)
    target, home = path.resolve(), folder.resolve()
    if target.parent != home and target.parent != _hub_blobs(home):
        raise WeightsError(f"{source}: {name!r} is a link that leaves the folder; put the file itself there")
    require_file(path)
    return path


def require_named(path: Path, source: Path) -> None:
    """Refuses a file that `source` names and that isn't there."""
    if not path.exists():
        raise WeightsError(f"{path}: missing, though {source.name} names it; the download or copy is incomplete")


def _hub_blobs(home: Path) -> Path | None:
    """The blobs of a cache folder models--ORG--NAME/snapshots/REVISION, where its links lead."""
    repository = home.parent.parent
    is_snapshot = home.parent.name == "snapshots" and repository.name.startswith("models--")
    return (repository / "blobs").resolve() if is_snapshot else None
