"""Files and folders appear whole or not at all."""

import os
import stat
import subprocess
import sys

import pytest

from llm_sepweight import WeightsError
from llm_sepweight.atomic import atomic_file, atomic_folder, copy_file


def test_a_file_appears_at_the_end_alone(tmp_path):
    with atomic_file(tmp_path / "a") as file:
        file.write(b"x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"x"
    assert os.listdir(tmp_path) == ["a"]


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a"):
        raise RuntimeError

    def interrupted():
        with atomic_folder(tmp_path / "b") as folder:
            (folder / "inside").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(WeightsError, match="exists already"), atomic_file(path):
        pass
    with pytest.raises(WeightsError, match="exists already"):
        copy_file(path, path)
    assert path.read_text() == "old"
    with atomic_file(path, overwrite=True) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(WeightsError, match="exists already"), atomic_file(path):
        path.write_text("someone else's")
    assert path.read_text() == "someone else's"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_overwrite_keeps_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def fail():
        with atomic_file(path, overwrite=True) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"


def test_a_folder_is_made_or_fills_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "new" / "deeper", tmp_path / "empty"):
        with atomic_folder(path) as folder:
            assert folder.parent == path.parent
            (folder / "x").write_text("1")
        assert os.listdir(path) == ["x"]


@pytest.mark.parametrize("kind", ["filled folder", "file", "link", "dangling link"])
def test_a_folder_never_replaces_anything(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "filled folder":
        path.mkdir()
        (path / "x").write_text("old")
    elif kind == "file":
        path.write_text("old")
    else:
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(WeightsError, match="exists already"), atomic_folder(path):
        pass
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_filled_meanwhile_is_kept(tmp_path):
    path = tmp_path / "target"

    def race():
        with atomic_folder(path) as folder:
            (folder / "x").write_text("mine")
            path.mkdir()
            (path / "x").write_text("theirs")

    with pytest.raises(WeightsError, match="exists already"):
        race()
    assert (path / "x").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, umask):
    """Files made through tempfile stay at 0600, which other users of a shared model folder notice."""
    old = os.umask(umask)
    try:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"x")
        with atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o777 & ~umask


KILLED = """
import os, signal, sys
from pathlib import Path
from llm_sepweight.atomic import atomic_file, atomic_folder
with atomic_folder(Path(sys.argv[1], "folder")) as folder:
    with atomic_file(folder / "inside") as file:
        file.write(b"x")
    with atomic_file(Path(sys.argv[1], "file")) as file:
        file.write(b"x" * 10000)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL on Windows")
def test_a_killed_process_leaves_only_temporary_names(tmp_path):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -9
    left = os.listdir(tmp_path)
    assert len(left) == 2
    assert all(name.startswith(".") and ".tmp-" in name for name in left)


def test_a_missing_folder_is_told_with_the_destination(tmp_path):
    """The error named a temporary file that nobody had asked for."""
    target = tmp_path / "absent" / "model.gguf"
    with pytest.raises(FileNotFoundError, match=f"no folder '{target.parent}'") as caught, atomic_file(target):
        pass
    assert caught.value.filename == str(target)


@pytest.mark.skipif(os.name == "nt" or not os.getuid(), reason="whoever is root may write anywhere")
@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_a_folder_that_cannot_be_written_is_told_with_the_destination(tmp_path, make):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as caught, make(tmp_path / "a"):
        pass
    tmp_path.chmod(0o700)
    assert caught.value.filename == str(tmp_path / "a")


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_a_name_too_long_is_told_as_it_was_given(tmp_path, make):
    with pytest.raises(OSError, match="too long") as caught, make(tmp_path / ("é" * 180)):
        pass
    assert caught.value.filename == str(tmp_path / ("é" * 180))
