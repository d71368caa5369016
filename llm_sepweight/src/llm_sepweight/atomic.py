"""Files and folders that appear whole or not at all.

Everything goes to a temporary neighbour first, is flushed to disk, and takes its real name in one rename; then the
folder around it is flushed, so that the rename survives a power cut. Modes follow the umask, as with ordinary files.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import WeightsError


@contextmanager
def atomic_file(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """A binary file for writing that takes the name `path` when the block ends without an exception.

    WeightsError when `path` exists, unless `overwrite` is True; FileNotFoundError when its folder doesn't. After an
    exception nothing remains.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder '{path.parent}' to write it into", str(path))
    temporary = _temporary(path)
    descriptor = _create(temporary, path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(path, overwrite)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new temporary folder beside `path`, to be filled; it takes that name when the block ends without an exception.

    WeightsError when `path` exists and isn't an empty folder. Files in it are flushed to disk before the rename.
    """
    path = Path(path)
    _refuse_filled(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    with _naming(path):
        temporary.mkdir()
    try:
        yield temporary
        _sync_tree(temporary)
        _refuse_filled(path)
        if path.exists():
            path.rmdir()  # empty; Windows doesn't rename onto a folder
        os.rename(temporary, path)  # unlike os.replace on a file, this fails if someone filled the place meanwhile
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def copy_file(source: str | Path, target: str | Path, *, overwrite: bool = False) -> None:
    """Copies one file's content atomically."""
    with Path(source).open("rb") as reader, atomic_file(target, overwrite=overwrite) as writer:
        shutil.copyfileobj(reader, writer, 2**20)


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk, where the system can (Windows can't, and needn't)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_BINARY = os.O_BINARY if os.name == "nt" else 0  # pyright: ignore[reportAttributeAccessIssue]


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.tmp-{secrets.token_hex(6)}")


def _create(temporary: Path, path: Path) -> int:
    # os.open and not tempfile: its files have mode 0600 whatever the umask is.
    with _naming(path):
        return os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _BINARY, 0o666)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """The system's refusal of the temporary neighbour names `path`, which is what the caller knows."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # Python makes the same subclass of it


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if os.path.lexists(path) and not overwrite:
        raise WeightsError(f"{path}: exists already and isn't overwritten; choose another name or remove it")


def _refuse_filled(path: Path) -> None:
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise WeightsError(f"{path}: exists already and isn't overwritten; choose another folder or remove it")


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            if not path.is_symlink():
                _sync_file(path)
        sync_folder(Path(root))


def _sync_file(path: Path) -> None:
    # Windows flushes only what is open for writing; elsewhere a file may be read-only.
    with path.open("rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())
