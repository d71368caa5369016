"""write: a complete folder or nothing."""

import gc
import hashlib
import json
import os
import stat
import sys
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_sepweight
from llm_sepweight import WeightsError


def check_folder(folder, expected):
    with llm_sepweight.open(folder) as weights:
        assert weights.layout == "sepweight"
        assert set(weights.names) == set(expected)
        assert all(torch.equal(weights.read(name), tensor) for name, tensor in expected.items())
    assert llm_sepweight.verify(folder).checksums


@pytest.mark.parametrize("kind", ["weights", "mapping", "pairs"])
def test_each_kind_of_source_gives_the_same_folder(tmp_path, sharded, sectioned, kind):
    path = tmp_path / "out"
    with llm_sepweight.open(sharded) as weights:
        source = {"weights": weights, "mapping": dict(reversed(sectioned.items())), "pairs": iter(sectioned.items())}
        llm_sepweight.write(path, source[kind])
    check_folder(path, sectioned)
    layers = [f"mid.{i:05d}.safetensors" for i in range(3)]
    assert sorted(os.listdir(path)) == ["begin.safetensors", "end.safetensors", *layers, "sepweight.json"]
    assert load_file(path / "mid.00001.safetensors").keys() == {"mlp.up.weight", "norm.weight"}


def test_the_marker_records_what_is_there(tmp_path, sectioned):
    llm_sepweight.write(tmp_path / "out", sectioned, dtype=torch.bfloat16)
    marker = json.loads((tmp_path / "out" / "sepweight.json").read_text())
    data = (tmp_path / "out" / "end.safetensors").read_bytes()
    record = marker["files"]["end.safetensors"]
    assert marker["num_layers"] == 3
    assert (marker["dtype"], marker["quantization"], marker["tied"]) == ("bfloat16", None, {})
    assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert record["tensors"]["norm.weight"]["shape"] == [4]
    assert record["tensors"]["norm.weight"]["dtype"] == "BF16"
    assert next(iter(marker["files"])) == "begin.safetensors"


def test_dtype_converts_floating_tensors_alone(tmp_path):
    tensors = {"begin.w": torch.randn(3), "begin.ids": torch.arange(3), "begin.mask": torch.tensor([True, False])}
    llm_sepweight.write(tmp_path / "out", tensors, dtype=torch.float16)
    check_folder(tmp_path / "out", tensors | {"begin.w": tensors["begin.w"].half()})


def test_tied_weights_are_stored_once(tmp_path, sectioned):
    embedding = sectioned["begin.embed_tokens.weight"]
    tied = {"end.lm_head.weight": "begin.embed_tokens.weight"}
    llm_sepweight.write(tmp_path / "found", sectioned | {"end.lm_head.weight": embedding})
    llm_sepweight.write(tmp_path / "told", sectioned.items(), tied=tied)
    for folder in (tmp_path / "found", tmp_path / "told"):
        assert load_file(folder / "end.safetensors").keys() == {"norm.weight"}
        with llm_sepweight.open(folder) as weights:
            assert weights.tied == tied
            assert torch.equal(weights.part("e").read("end.lm_head.weight"), embedding)
            llm_sepweight.write(tmp_path / f"{folder.name} again", weights)
        with llm_sepweight.open(tmp_path / f"{folder.name} again") as weights:
            assert weights.tied == tied


def test_a_tied_part_alone_stores_its_own_copy(tmp_path, sectioned):
    embedding = sectioned["begin.embed_tokens.weight"]
    llm_sepweight.write(tmp_path / "whole", sectioned | {"end.lm_head.weight": embedding})
    with llm_sepweight.open(tmp_path / "whole") as weights:
        llm_sepweight.write(tmp_path / "end", weights.part("2-3 e"))
    with llm_sepweight.open(tmp_path / "end") as weights:
        assert weights.num_layers == 3
        assert weights.tied == {}
        assert torch.equal(weights.read("end.lm_head.weight"), embedding)


def test_tied_to_nothing_is_refused(tmp_path, sectioned):
    with pytest.raises(WeightsError, match="isn't among the tensors"):
        llm_sepweight.write(tmp_path / "out", sectioned, tied={"end.head.weight": "begin.nothing"})
    assert os.listdir(tmp_path) == []


def test_a_streamed_source_has_one_layer_in_memory(tmp_path):
    """Freed memory is reused, so streamed tensors at one address aren't tied either."""
    alive: list[weakref.ref] = []
    most = 0

    def stream():
        nonlocal most
        for layer in range(6):
            for key in ("a", "b"):
                tensor = torch.full((256, 256), float(layer))
                alive.append(weakref.ref(tensor))
                most = max(most, sum(ref() is not None for ref in alive))
                yield f"mid.{layer}.{key}", tensor
                del tensor

    gc.collect()
    llm_sepweight.write(tmp_path / "out", stream())
    assert most <= 3  # a layer, and the first tensor of the next
    with llm_sepweight.open(tmp_path / "out") as weights:
        assert weights.tied == {}
        assert [int(weights.read(f"mid.{i}.b")[0, 0]) for i in range(6)] == list(range(6))


def test_a_section_that_comes_back_is_refused(tmp_path):
    pairs = [("mid.0.a", torch.ones(1)), ("mid.1.a", torch.ones(1)), ("mid.0.b", torch.ones(1))]
    with pytest.raises(WeightsError, match=r"mid\.00000\.safetensors must come one after another"):
        llm_sepweight.write(tmp_path / "out", iter(pairs))
    with pytest.raises(WeightsError, match="comes twice"):
        llm_sepweight.write(tmp_path / "out", iter([pairs[0], pairs[0]]))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["w", "middle.0.w", "mid.x.w", "mid.0", "begin.", "mid.-1.w", "mid.1000000.w"])
def test_names_without_a_section_are_refused(tmp_path, name):
    with pytest.raises(WeightsError, match="must be begin"):
        llm_sepweight.write(tmp_path / "out", iter([(name, torch.ones(1))]))
    assert os.listdir(tmp_path) == []


def test_a_complete_folder_is_never_overwritten(tmp_path, sectioned):
    llm_sepweight.write(tmp_path / "out", sectioned)
    with pytest.raises(WeightsError, match="exists already"):
        llm_sepweight.write(tmp_path / "out", {"begin.w": torch.zeros(1)})
    check_folder(tmp_path / "out", sectioned)


def test_a_failing_source_leaves_nothing(tmp_path, sectioned):
    def stream():
        yield from list(sectioned.items())[:4]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        llm_sepweight.write(tmp_path / "out", stream())
    assert os.listdir(tmp_path) == []


def test_companions_are_copied(tmp_path, sectioned):
    (tmp_path / "tokenizer.json").write_text("{}")
    llm_sepweight.write(
        tmp_path / "out", sectioned, config={"model_type": "llama"}, files=[tmp_path / "tokenizer.json"]
    )
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert llm_sepweight.read_json(tmp_path / "out" / "config.json") == {"model_type": "llama"}


@pytest.mark.parametrize("name", ["begin.safetensors", "sepweight.json", "config.json", "absent.json"])
def test_companions_may_not_take_the_place_of_weights(tmp_path, sectioned, name):
    if name != "absent.json":
        (tmp_path / name).write_text("{}")
    with pytest.raises(WeightsError, match="can't be copied"):
        llm_sepweight.write(tmp_path / "out", sectioned, config={"a": 1}, files=[tmp_path / name])
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_modes_follow_the_umask(tmp_path, sectioned):
    old = os.umask(0o027)
    try:
        llm_sepweight.write(tmp_path / "out", sectioned, config={})
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "out").iterdir()}
    assert modes == {0o640}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


def test_a_checkpoint_may_be_rewritten_from_its_own_map(tmp_path):
    """A writer that truncates the file which its tensors are mapped from saves zeros."""
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.arange(1000.0)}, path)
    with llm_sepweight.open(path) as weights:
        llm_sepweight.write_safetensors(path, {"w": weights.read("w")}, overwrite=True)
    assert torch.equal(load_file(path)["w"], torch.arange(1000.0))


def test_views_store_their_own_elements_alone(tmp_path):
    """torch.save of a slice writes the whole storage behind it."""
    whole = torch.arange(100_000.0).reshape(100, 1000)
    llm_sepweight.write(tmp_path / "out", {"begin.row": whole[3], "begin.column": whole[:, 3]})
    assert (tmp_path / "out" / "begin.safetensors").stat().st_size < 10_000
    check_folder(tmp_path / "out", {"begin.row": whole[3], "begin.column": whole[:, 3]})


@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
def test_conversion_takes_one_tensor_over_the_result(tmp_path, monkeypatch):
    """Not the whole checkpoint in its new dtype; pages of mapped files don't count, the system takes them back."""
    size, count = 2**20, 12
    tensors = {f"model.layers.{i}.w": torch.zeros(size, dtype=torch.bfloat16) for i in range(count)}
    save_file(tensors, tmp_path / "x.safetensors")
    del tensors

    def anonymous_bytes():
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024

    seen = []
    read = llm_sepweight.Weights.read

    def measured(*arguments, **options):
        seen.append(anonymous_bytes())
        return read(*arguments, **options)

    monkeypatch.setattr(llm_sepweight.Weights, "read", measured)
    with llm_sepweight.open(tmp_path / "x.safetensors") as weights:
        llm_sepweight.write(tmp_path / "out", weights, dtype=torch.float64)
    assert len(seen) == count
    assert max(seen) - seen[0] < 3 * size * 8  # all of it would be 12 times


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux's")
def test_a_full_disk_leaves_nothing(tmp_path, sectioned):
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4200, old[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            llm_sepweight.write(tmp_path / "out", {"begin.w": torch.zeros(8), "end.w": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert os.listdir(tmp_path) == []
