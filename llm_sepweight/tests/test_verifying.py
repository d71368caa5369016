"""verify finds every kind of damage and names the file and the tensor."""

import json

import pytest
import torch

import llm_sepweight
from llm_sepweight import WeightsError


@pytest.fixture
def folder(tmp_path, sectioned):
    llm_sepweight.write(tmp_path / "w", sectioned)
    return tmp_path / "w"


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_an_undamaged_folder_passes(folder):
    result = llm_sepweight.verify(folder)
    assert (result.files, result.checksums) == (5, True)
    assert result.bytes == sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_one_flipped_bit_is_found_and_its_tensor_named(folder, sectioned):
    flip(folder / "mid.00001.safetensors", 4096 + 6 * 4 * 2 + 1)  # the second tensor of the file
    with pytest.raises(WeightsError, match=r"mid\.00001\.safetensors: damaged, tensor mid\.1\.norm\.weight isn't"):
        llm_sepweight.verify(folder)


def test_every_damaged_file_is_named(folder):
    flip(folder / "begin.safetensors", -1)
    flip(folder / "end.safetensors", -1)
    with pytest.raises(WeightsError, match=r"begin\.embed_tokens\.weight.*end\."):
        llm_sepweight.verify(folder)


def test_a_changed_header_is_found(folder):
    data = (folder / "end.safetensors").read_bytes()
    (folder / "end.safetensors").write_bytes(data[:4090] + b"\n" + data[4091:])  # still valid JSON
    with pytest.raises(WeightsError, match="its header isn't what was written"):
        llm_sepweight.verify(folder)


def test_a_missing_file_is_named(folder):
    (folder / "mid.00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"mid\.00002\.safetensors: missing"):
        llm_sepweight.verify(folder)


def test_a_truncated_file_is_named_when_opened_and_when_verified(folder):
    path = folder / "mid.00000.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    for check in (llm_sepweight.open, llm_sepweight.verify):
        with pytest.raises(WeightsError, match=r"mid\.00000\.safetensors: truncated.*'norm\.weight'"):
            check(folder)


def test_swapped_files_are_found_when_opened(folder):
    a, b = folder / "begin.safetensors", folder / "end.safetensors"
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)
    with pytest.raises(WeightsError, match=r"isn't as sepweight\.json says"):
        llm_sepweight.open(folder)


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_shard_of_a_hugging_face_folder_is_named(sharded, keep):
    path = sharded / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors: truncated"):
        llm_sepweight.open(sharded)
    with pytest.raises(WeightsError, match="truncated"):
        llm_sepweight.verify(sharded)


def test_layouts_without_checksums_say_so(sharded):
    assert llm_sepweight.verify(sharded) == llm_sepweight.Verified(
        files=2, bytes=sum(file.stat().st_size for file in sharded.glob("*.safetensors")), checksums=False
    )


WRONG = [
    ("format", "other"),
    ("version", 2),
    ("version", "1"),
    ("num_layers", "3"),
    ("num_layers", -1),
    ("num_layers", 2),
    ("num_layers", 10**9),
    ("num_layers", True),
    ("quantization", {"method": "int8"}),
    ("tied", []),
    ("tied", {"end.head.weight": 3}),
    ("tied", {"head": "begin.embed_tokens.weight"}),
    ("tied", {"end.a": "end.b", "end.b": "begin.embed_tokens.weight"}),
    ("files", None),
    ("files", {"begin.safetensors": 1}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_marker_with_a_wrong_value_is_refused(folder, key, value):
    marker = json.loads((folder / "sepweight.json").read_text())
    (folder / "sepweight.json").write_text(json.dumps(marker | {key: value}))
    with pytest.raises(WeightsError, match=r"sepweight\.json: "):
        llm_sepweight.open(folder)


RECORD_WRONG = [("bytes", "1"), ("bytes", 7), ("sha256", "xyz"), ("sha256", None), ("tensors", [])]


@pytest.mark.parametrize(("key", "value"), RECORD_WRONG)
def test_a_file_record_with_a_wrong_value_is_refused(folder, key, value):
    marker = json.loads((folder / "sepweight.json").read_text())
    marker["files"]["end.safetensors"][key] = value
    (folder / "sepweight.json").write_text(json.dumps(marker))
    with pytest.raises(WeightsError, match=r"sepweight\.json"):
        llm_sepweight.open(folder)


@pytest.mark.parametrize(("key", "value"), [("dtype", "F31"), ("dtype", 3), ("shape", [-1]), ("shape", "x")])
def test_a_tensor_record_with_a_wrong_value_is_refused(folder, key, value):
    marker = json.loads((folder / "sepweight.json").read_text())
    marker["files"]["end.safetensors"]["tensors"]["norm.weight"][key] = value
    (folder / "sepweight.json").write_text(json.dumps(marker))
    with pytest.raises(WeightsError, match=r"sepweight\.json"):
        llm_sepweight.open(folder)


def test_a_wrong_checksum_in_the_marker_is_found(folder):
    marker = json.loads((folder / "sepweight.json").read_text())
    marker["files"]["end.safetensors"]["sha256"] = "0" * 64
    (folder / "sepweight.json").write_text(json.dumps(marker))
    with llm_sepweight.open(folder) as weights:
        assert isinstance(weights.read("end.norm.weight"), torch.Tensor)
    with pytest.raises(WeightsError, match=r"end\.safetensors: damaged"):
        llm_sepweight.verify(folder)
