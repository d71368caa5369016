"""Pickles with a payload: given to every loader, never run."""

import contextlib
import os
import pickle
import zipfile

import pytest
import torch

import llm_sepweight
from llm_sepweight import WeightsError


class Payload:
    """Unpickling this makes a file; a real one would run anything."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "a payload was executed"


def new_format(value, path):
    torch.save(value, path)


def old_format(value, path):
    torch.save(value, path, _use_new_zipfile_serialization=False)


def bare_pickle(value, path):
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [new_format, old_format, bare_pickle])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "begin.pth", "mid.00000.pth", "end.pth", "consolidated.00.pth"])
def test_a_payload_is_refused_in_every_layout(tmp_path, canary, save, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    save({"w": torch.ones(2), "evil": Payload(canary)}, folder / name)
    loaders = [
        lambda: llm_sepweight.open(folder),
        lambda: llm_sepweight.open(folder / name),
        lambda: llm_sepweight.verify(folder),
        lambda: llm_sepweight.load(folder, "b"),
        lambda: llm_sepweight.lazy_load(torch.nn.Module(), folder, "b"),
        lambda: llm_sepweight.get_filenames("f", path=folder),
        lambda: llm_sepweight.convert_pth_files(folder / name, tmp_path / "out", llm_sepweight.default_decider),
    ]
    for load in loaders:
        with pytest.raises(WeightsError, match=f"{name}: refused"):
            load()
    assert not (tmp_path / "out").exists()


def test_a_payload_in_a_shard_of_an_index_is_refused(tmp_path, canary, index):
    torch.save({"w": Payload(canary)}, tmp_path / "x.bin")
    index(tmp_path, {"w": "x.bin"}, "pytorch_model.bin.index.json")
    with pytest.raises(WeightsError, match=r"x\.bin: refused.*nothing of it was run"):
        llm_sepweight.open(tmp_path)


def test_a_payload_named_safetensors_is_refused(tmp_path, canary):
    bare_pickle(Payload(canary), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: "):
        llm_sepweight.open(tmp_path)


VALUES = {
    "a list": [torch.ones(1)],
    "a tensor": torch.ones(1),
    "a number inside": {"w": torch.ones(1), "step": 3},
    "a dictionary inside": {"model": {"w": torch.ones(1)}},
    "a number as name": {3: torch.ones(1)},
    "a sparse tensor": {"w": torch.eye(3).to_sparse()},
    "a meta tensor": {"w": torch.empty(3, device="meta")},
    "a tensor larger than its storage": {"w": torch.ones(1).expand(1000)},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_anything_but_a_dictionary_of_dense_tensors_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: "):
        llm_sepweight.open(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 400, -1, -30])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: refused"):
        llm_sepweight.open(tmp_path)


def test_a_zip_file_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.txt", "hello")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: refused"):
        llm_sepweight.open(tmp_path)


def test_flipped_bytes_never_escape_as_another_exception(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.ones(3)}, path)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 0xFF
        path.write_bytes(data)
        with contextlib.suppress(WeightsError):
            llm_sepweight.open(tmp_path).close()
