"""One reader over every layout: same names, same values."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import llm_sepweight
from llm_sepweight import WeightsError


def check_equal(weights, expected):
    assert set(weights.names) == set(expected)
    for name, tensor in expected.items():
        info = weights.info(name)
        assert (info.shape, info.dtype, info.nbytes) == (tuple(tensor.shape), tensor.dtype, tensor.nbytes)
        assert torch.equal(weights.read(name), tensor)


@pytest.fixture(params=["safetensors", "safetensors-sharded", "bin", "bin-sharded"])
def hf_folder(request, tmp_path, tensors, sharded, index):
    if request.param == "safetensors-sharded":
        return request.param, sharded
    folder = tmp_path / "folder"
    folder.mkdir()
    names = list(tensors)
    if request.param == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    elif request.param == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        torch.save({key: tensors[key] for key in names[:4]}, folder / "a.bin")
        torch.save({key: tensors[key] for key in names[4:]}, folder / "b.bin")
        weight_map = {key: "a.bin" if i < 4 else "b.bin" for i, key in enumerate(names)}
        index(folder, weight_map, "pytorch_model.bin.index.json")
    return request.param, folder


def test_a_hugging_face_folder_is_read_in_place(hf_folder, tensors):
    layout, folder = hf_folder
    with llm_sepweight.open(folder) as weights:
        assert weights.layout == layout
        assert weights.num_layers == 3
        assert weights.nbytes == sum(tensor.nbytes for tensor in tensors.values())
        check_equal(weights, tensors)


def test_a_part_of_a_hugging_face_folder_has_sectioned_names(hf_folder, sectioned):
    with llm_sepweight.open(hf_folder[1]) as weights:
        check_equal(weights.part("f"), sectioned)
        first = weights.part("b 0-2")
        assert first.names[0] == "begin.embed_tokens.weight"
        check_equal(first, {n: t for n, t in sectioned.items() if n.startswith(("begin", "mid.0", "mid.1"))})
        assert weights.part("2-3 e").num_layers == 3


def test_the_decider_names_and_drops(sharded, tensors):
    def decide(key):
        if key == "lm_head.weight":
            return None
        return llm_sepweight.default_decider(key.replace("mlp.up", "up"))

    with llm_sepweight.open(sharded, decider=decide) as weights:
        assert weights.names[:3] == ("begin.embed_tokens.weight", "mid.0.up.weight", "mid.0.norm.weight")
        assert "end.lm_head.weight" not in weights
        assert weights.key("mid.0.up.weight") == "model.layers.0.mlp.up.weight"
        assert weights.dropped == weights.part("0-1").dropped == ("lm_head.weight",)
        assert torch.equal(weights.read("mid.1.up.weight"), tensors["model.layers.1.mlp.up.weight"])


def test_two_tensors_under_one_name_are_refused(sharded):
    with pytest.raises(WeightsError, match=r"both become 'end\.w'"):
        llm_sepweight.open(sharded, decider=lambda key: ["end", "w"])


def test_a_file_is_opened_by_itself(sharded, tmp_path, tensors):
    with llm_sepweight.open(sharded / "model-00001-of-00002.safetensors") as weights:
        assert set(weights.names) == set(list(tensors)[:5])
    with pytest.raises(WeightsError, match="not a kind of file"):
        llm_sepweight.open(sharded / "model.safetensors.index.json")


def test_the_format_before_torch_1_6_is_read(tmp_path, tensors):
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with llm_sepweight.open(tmp_path) as weights:
        check_equal(weights, tensors)


def write_pth(folder: Path, sectioned, *, begin: str = "begin", prefix: str = "") -> Path:
    folder.mkdir()
    files: dict[str, dict] = {}
    for name, tensor in sectioned.items():
        head, _, key = name.partition(".")
        if head == "mid":
            layer, _, key = key.partition(".")
            files.setdefault(f"mid.{int(layer):05d}", {})[prefix.format(i=layer) + key] = tensor
        else:
            files.setdefault({"begin": begin}.get(head, head), {})[key] = tensor
    for stem, content in files.items():
        torch.save(content, folder / f"{stem}.pth")
    return folder


@pytest.mark.parametrize(("begin", "prefix"), [("begin", ""), ("start", ""), ("begin", "h.{i}.")])
def test_the_older_pth_layout_is_read(tmp_path, sectioned, begin, prefix):
    """Older writers put `h.LAYER.` before the keys of a layer, while the modules want bare keys."""
    folder = write_pth(tmp_path / "old", sectioned, begin=begin, prefix=prefix)
    with llm_sepweight.open(folder) as weights:
        assert weights.layout == "sepweight-pth"
        assert weights.num_layers == 3
        check_equal(weights, sectioned)


def test_begin_and_start_at_once_are_refused(tmp_path, sectioned):
    folder = write_pth(tmp_path / "old", sectioned)
    torch.save({"w": torch.ones(1)}, folder / "start.pth")
    with pytest.raises(WeightsError, match="same section"):
        llm_sepweight.open(folder)


def test_a_sepweight_folder_without_its_marker_is_incomplete(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "begin.safetensors")
    with pytest.raises(WeightsError, match=r"no sepweight\.json.*incomplete"):
        llm_sepweight.open(tmp_path)


def test_a_machine_may_hold_the_files_of_its_own_part(tmp_path, sectioned):
    llm_sepweight.write(tmp_path / "w", sectioned)
    for name in ("begin", "mid.00000", "end"):
        (tmp_path / "w" / f"{name}.safetensors").unlink()
    with llm_sepweight.open(tmp_path / "w") as weights:
        assert weights.num_layers == 3
        assert len(weights.part("1-3").names) == 4
        with pytest.raises(WeightsError, match=r"mid\.00000\.safetensors"):
            weights.part("0-2")
        with pytest.raises(WeightsError, match="begin"):
            weights.part("f")


def meta_tensors(embedding_dim: int, count: int) -> tuple[dict, list[dict]]:
    width, vocabulary, hidden = 8, 12, 16
    whole = {
        "tok_embeddings.weight": torch.randn(vocabulary, width),
        "layers.0.attention.wq.weight": torch.randn(width, width),
        "layers.0.attention.wo.weight": torch.randn(width, width),
        "layers.0.feed_forward.w1.weight": torch.randn(hidden, width),
        "layers.0.feed_forward.w2.weight": torch.randn(width, hidden).bfloat16(),
        "layers.0.attention_norm.weight": torch.randn(width),
        "norm.weight": torch.randn(width),
        "output.weight": torch.randn(vocabulary, width),
    }
    dims = {"wq": 0, "w1": 0, "output": 0, "wo": 1, "w2": 1, "tok_embeddings": embedding_dim}
    shards: list[dict] = [{} for _ in range(count)]
    for key, tensor in whole.items():
        dim = dims.get(key.split(".")[-2])
        parts = [tensor] * count if dim is None else [part.clone() for part in tensor.chunk(count, dim)]
        for shard, part in zip(shards, parts, strict=True):
            shard[key] = part
    return whole, shards


@pytest.mark.parametrize(("embedding_dim", "count"), [(1, 1), (1, 2), (0, 2), (0, 4)])
def test_metas_model_parallel_files_are_read_as_one(tmp_path, embedding_dim, count):
    """Llama 1 and 2 cut the embedding along its width, Llama 3 along the vocabulary."""
    whole, shards = meta_tensors(embedding_dim, count)
    for i, shard in enumerate(shards):
        torch.save(shard, tmp_path / f"consolidated.{i:02d}.pth")
    with llm_sepweight.open(tmp_path) as weights:
        assert weights.layout == "meta"
        check_equal(weights, whole)
        for name, tensor in whole.items():
            out = torch.empty(tensor.shape, dtype=torch.float64)
            assert torch.equal(weights.read(name, out=out), tensor.double())


def test_a_missing_meta_file_and_an_unknown_tensor_are_named(tmp_path):
    _, shards = meta_tensors(1, 2)
    torch.save(shards[1], tmp_path / "consolidated.01.pth")
    with pytest.raises(WeightsError, match=r"consolidated\.00\.pth: missing"):
        llm_sepweight.open(tmp_path)
    for i, shard in enumerate(shards):
        torch.save(shard | {"layers.0.router": torch.ones(2)}, tmp_path / f"consolidated.{i:02d}.pth")
    with pytest.raises(WeightsError, match=r"layers\.0\.router.*isn't known how to join"):
        llm_sepweight.open(tmp_path)


def test_tied_tensors_of_a_bin_file_are_noticed(tmp_path):
    weight = torch.randn(4, 2)
    torch.save({"model.embed_tokens.weight": weight, "lm_head.weight": weight}, tmp_path / "pytorch_model.bin")
    with llm_sepweight.open(tmp_path) as weights:
        assert weights.tied == {"lm_head.weight": "model.embed_tokens.weight"}
        assert weights.nbytes == weight.nbytes


def test_a_hugging_face_cache_snapshot_opens_through_its_links(tmp_path, sharded, tensors):
    model = tmp_path / "models--org--name"
    snapshot = model / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for i, file in enumerate(sorted(sharded.iterdir())):
        file.rename(model / "blobs" / f"digest{i}")
        os.symlink(f"../../blobs/digest{i}", snapshot / file.name)
    with llm_sepweight.open(snapshot) as weights:
        check_equal(weights, tensors)


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights here; looked for .*model\.safetensors"):
        llm_sepweight.open(tmp_path)
    with pytest.raises(WeightsError, match="no such file or folder"):
        llm_sepweight.open(tmp_path / "nothing")


def test_an_unknown_name_suggests_the_nearest(sharded):
    with llm_sepweight.open(sharded) as weights, pytest.raises(WeightsError, match=r"mean 'model\.norm\.weight'"):
        weights.read("model.norms.weight")


@pytest.mark.parametrize("name", ["model.layers.7.norm.weight", "lm_tail.bias"])
def test_a_name_that_is_no_misspelling_suggests_none(sharded, name):
    """Layer 7 of a model with three was taken for a misspelt layer 2."""
    with llm_sepweight.open(sharded) as weights, pytest.raises(WeightsError, match=r"has no tensor '[\w.]+'$"):
        weights.read(name)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_what_git_leaves_without_lfs_is_named_as_that(tmp_path, name):
    """It was called a header of 2336927755350992246 bytes, or a pickle that asks for more than tensors."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 1234\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(WeightsError, match=rf"{name}: a Git LFS pointer .*git lfs pull"):
        llm_sepweight.open(tmp_path)
