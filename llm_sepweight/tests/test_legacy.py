"""The names of llm_sepweight 0.10, with the meaning that its documents gave them."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import llm_sepweight
from llm_sepweight import Part, PartSpec, PartStateDict, WeightsError, default_decider
from llm_sepweight.filenames import main


def check_folder(folder, expected):
    with llm_sepweight.open(folder) as weights:
        assert set(weights.names) == set(expected)
        assert all(torch.equal(weights.read(name), tensor) for name, tensor in expected.items())
    assert llm_sepweight.verify(folder).checksums


def old_decider(key):
    """As the deciders of that time: `start`, and the head among the end's keys."""
    answer = default_decider(key)
    return ["start", *answer[1:]] if answer[0] == "begin" else answer


@pytest.mark.parametrize("decider", [default_decider, old_decider])
def test_dump_takes_begin_and_start(tmp_path, tensors, sectioned, decider):
    """dump once refused the `begin` that its own deciders gave."""
    llm_sepweight.dump(decider, tensors, tmp_path / "out")
    check_folder(tmp_path / "out", sectioned)


def test_calls_of_dump_merge_even_within_a_layer(tmp_path, tensors, sectioned):
    """dump once needed every section in every call, so that checkpoints in shards failed."""
    names = list(tensors)
    for part in (names[:2], names[2:4], names[4:]):  # the second cut goes through a layer
        llm_sepweight.dump(default_decider, {name: tensors[name] for name in part}, tmp_path / "out")
        assert llm_sepweight.verify(tmp_path / "out").checksums
    check_folder(tmp_path / "out", sectioned)


def test_dump_refuses_a_tensor_that_is_there(tmp_path, tensors, sectioned):
    llm_sepweight.dump(default_decider, tensors, tmp_path / "out")
    with pytest.raises(WeightsError, match=r"end\.safetensors: holds 'end\.lm_head\.weight' already"):
        llm_sepweight.dump(default_decider, {"new": torch.ones(1), "lm_head.weight": torch.ones(1)}, tmp_path / "out")
    check_folder(tmp_path / "out", sectioned)


def test_an_interrupted_dump_leaves_a_folder_that_is_refused(tmp_path, tensors, monkeypatch):
    llm_sepweight.dump(default_decider, {"lm_head.weight": tensors["lm_head.weight"]}, tmp_path / "out")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        llm_sepweight.dump(default_decider, {"model.norm.weight": tensors["model.norm.weight"]}, tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(WeightsError, match="incomplete"):
        llm_sepweight.open(tmp_path / "out")
    with pytest.raises(WeightsError, match="interrupted"):
        llm_sepweight.dump(default_decider, tensors, tmp_path / "out")


def test_dump_drops_what_the_decider_drops(tmp_path):
    def decide(key):
        return None if key.endswith("inv_freq") else ["begin", key]

    llm_sepweight.dump(decide, {"w": torch.ones(1), "inv_freq": torch.ones(1)}, tmp_path / "out")
    check_folder(tmp_path / "out", {"begin.w": torch.ones(1)})


def test_dump_stores_a_slice_without_the_storage_behind_it(tmp_path):
    llm_sepweight.dump(lambda key: ["begin", key], {"w": torch.zeros(1_000_000)[:2]}, tmp_path / "out")
    assert (tmp_path / "out" / "begin.safetensors").stat().st_size < 10_000


@pytest.fixture
def folder(tmp_path, sectioned):
    llm_sepweight.write(tmp_path / "w", sectioned)
    return tmp_path / "w"


def test_load_gives_the_sections_of_a_part(folder, sectioned):
    part = llm_sepweight.load(folder, "b 0-2")
    assert isinstance(part, PartStateDict)
    assert part.begin is not None
    assert part.begin.keys() == {"embed_tokens.weight"}
    assert part.end is None
    assert (part.main_range, list(part.mid)) == (range(2), [0, 1])
    assert torch.equal(part.mid[1]["norm.weight"], sectioned["mid.1.norm.weight"])


def test_load_of_everything_reads_the_layers_too(folder, sectioned):
    """The names for `f` once left all layers out."""
    part = PartStateDict.from_part_spec(folder, "f")
    assert part.main_range == range(3)
    assert part.to_dict().keys() == sectioned.keys()


def test_to_dict_puts_other_layers_into_the_slots_of_the_first_range(folder, sectioned):
    part = llm_sepweight.load(folder, "0-1 2-3 e")
    assert part.to_dict().keys() == {
        "mid.0.mlp.up.weight",
        "mid.0.norm.weight",
        "end.norm.weight",
        "end.lm_head.weight",
    }
    rotated = part.to_dict(range(2, 3))
    assert torch.equal(rotated["mid.0.mlp.up.weight"], sectioned["mid.2.mlp.up.weight"])
    assert "mid.2.mlp.up.weight" not in rotated


@pytest.mark.parametrize("target", [range(2), range(1, 2), range(0)])
def test_to_dict_refuses_layers_that_do_not_fit_the_slots(folder, target):
    with pytest.raises(ValueError, match=r"must name 1 of the loaded layers \[0, 2\]"):
        llm_sepweight.load(folder, "0-1 2-3").to_dict(target)


class Layer(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.mlp = nn.ModuleDict({"up": nn.Linear(4, 6, bias=False, **options)})
        self.norm = nn.RMSNorm(4, **options)

    def forward(self, x):
        return x + 1


class End(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm = nn.RMSNorm(4, **options)
        self.lm_head = nn.Linear(4, 7, bias=False, **options)

    def forward(self, x):
        return self.lm_head(x)


class Begin(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embed_tokens = nn.Embedding(7, 4, **options)

    def forward(self, x):
        return self.embed_tokens(x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_lazy_load_fills_a_part_in_the_modules_dtypes(folder, sectioned, device):
    part = Part(mid=lambda: Layer(device=device), end=lambda: End(device=device), mid_range=range(1, 3))
    llm_sepweight.lazy_load(part, folder, "1-3 e")
    state = part.state_dict()
    assert state.keys() == {name for name in sectioned if name.startswith(("mid.1", "mid.2", "end"))}
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, sectioned[name].float())


def test_lazy_load_keeps_tied_parameters_one(tmp_path, sectioned):
    shared = {"begin.embed_tokens.weight": sectioned["begin.embed_tokens.weight"]}
    llm_sepweight.write(
        tmp_path / "w",
        shared | {"end.norm.weight": torch.ones(4)},
        tied={"end.lm_head.weight": "begin.embed_tokens.weight"},
    )
    with torch.device("meta"):
        part = Part(begin=Begin, end=End)
        part.end.lm_head.weight = part.begin.embed_tokens.weight
    llm_sepweight.lazy_load(part, tmp_path / "w", "b e")
    assert part.end.lm_head.weight is part.begin.embed_tokens.weight
    assert torch.equal(part.end.lm_head.weight, shared["begin.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Part(mid=Layer, mid_range=range(1, 2)), r"unexpected by the module: mid\.2\.mlp"),
        (lambda: Part(mid=Layer, mid_range=range(3)), r"missing in the checkpoint: mid\.0\.mlp"),
        (lambda: Part(mid=lambda: nn.Linear(2, 2), mid_range=range(1, 3)), "doesn't fit"),
    ],
)
def test_lazy_load_is_strict(folder, make, message):
    """It once loaded with strict=False, and so nothing at all under other names."""
    module = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        llm_sepweight.lazy_load(module, folder, "1-3")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_lazy_load_names_a_wrong_shape(folder):
    module = Part(mid=Layer, mid_range=range(1))
    module.mid["0"].norm = nn.RMSNorm(5)
    with pytest.raises(WeightsError, match=r"mid\.00000\.safetensors: 'mid\.0\.norm\.weight' has shape \(4,\).*\(5,\)"):
        llm_sepweight.lazy_load(module, folder, "0-1")


def test_part_runs_its_modules_in_order():
    part = Part(begin=Begin, mid=Layer, end=End, mid_range=range(7, 9))
    assert list(part.mid) == ["7", "8"]
    ids = torch.tensor([1, 2])
    assert torch.equal(part(ids), part.end(part.begin(ids) + 1 + 1))
    assert torch.equal(Part()(ids), ids)
    with pytest.raises(ValueError, match="belong together"):
        Part(mid=Layer)


def test_get_filenames():
    assert llm_sepweight.get_filenames("b 0-2 e") == [
        "begin.safetensors",
        "mid.00000.safetensors",
        "mid.00001.safetensors",
        "end.safetensors",
    ]
    assert llm_sepweight.get_filenames(PartSpec.parse("11-12"), extension=".pth") == ["mid.00011.pth"]


def test_get_filenames_of_everything_names_every_layer(folder):
    """`f` once gave begin and end alone."""
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    assert sorted(llm_sepweight.get_filenames("f", path=folder)) == names
    assert sorted(llm_sepweight.get_filenames("f", num_layers=3)) == names
    with pytest.raises(ValueError, match="give num_layers= or path="):
        llm_sepweight.get_filenames("f")
    with pytest.raises(ValueError, match="the model has 3"):
        llm_sepweight.get_filenames("0-4", path=folder)


def test_the_module_prints_file_names():
    command = [sys.executable, "-W", "error", "-m", "llm_sepweight.filenames", "b 0-2"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["begin.safetensors", "mid.00000.safetensors", "mid.00001.safetensors"]
    assert result.stderr == ""


def test_the_module_explains_a_wrong_spec(capsys):
    assert main(["b 3-4"]) == 2
    assert "must start at 0" in capsys.readouterr().err
    assert main(["f"]) == 2
    assert main(["f", "--num-layers", "1", "--extension", ".pth"]) == 0
    assert capsys.readouterr().out.split() == ["begin.pth", "mid.00000.pth", "end.pth"]


@pytest.mark.parametrize("extension", [".pth", "pth", ".bin"])
def test_convert_pth_files_merges_shards(tmp_path, tensors, sectioned, extension):
    """Its default extension once matched no file at all."""
    (tmp_path / "in").mkdir()
    names = list(tensors)
    for i, part in enumerate((names[:4], names[4:])):
        torch.save({name: tensors[name] for name in part}, tmp_path / "in" / f"{i}.{extension.lstrip('.')}")
    llm_sepweight.convert_pth_files(tmp_path / "in", tmp_path / "out", default_decider, extension=extension)
    check_folder(tmp_path / "out", sectioned)


def test_convert_safetensors_files_merges_shards(tmp_path, sharded, sectioned):
    llm_sepweight.convert_safetensors_files(sharded, tmp_path / "out", default_decider)
    check_folder(tmp_path / "out", sectioned)


def test_conversions_without_files_say_so(tmp_path):
    with pytest.raises(WeightsError, match=r"has no \.pth files"):
        llm_sepweight.convert_pth_files(tmp_path, tmp_path / "out", default_decider)
    with pytest.raises(WeightsError, match=r"has no \.safetensors files"):
        llm_sepweight.convert_safetensors_files(tmp_path, tmp_path / "out", default_decider)
    assert os.listdir(tmp_path) == []


def test_old_module_names_are_importable():
    from llm_sepweight.dumping import dump
    from llm_sepweight.part_state_dict import PartSpec as SpecAlias
    from llm_sepweight.pth_conversion import convert_pth_files
    from llm_sepweight.safetensors_conversion import convert_safetensors_files

    assert SpecAlias is PartSpec
    assert dump is llm_sepweight.dump
    assert convert_pth_files is llm_sepweight.convert_pth_files
    assert convert_safetensors_files is llm_sepweight.convert_safetensors_files


def test_memory_is_compared_with_cuda_devices_alone():
    with pytest.raises(ValueError, match="must be a CUDA device"):
        llm_sepweight.is_cpu_memory_less_than_gpu("cpu")


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="the machine has no /proc/meminfo")
def test_memory_is_compared_in_bytes(monkeypatch):
    class Properties:
        total_memory = 2**60

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert llm_sepweight.is_cpu_memory_less_than_gpu("cuda:0")
    Properties.total_memory = 1
    assert not llm_sepweight.is_cpu_memory_less_than_gpu("cuda:0")


def test_the_end_of_a_tied_model_needs_the_file_of_its_embedding(tmp_path, sectioned):
    """A machine that fetches sepweight.json first learns from it what else to fetch."""
    tied = {"end.lm_head.weight": "begin.embed_tokens.weight"}
    llm_sepweight.write(tmp_path / "w", sectioned, tied=tied)
    (tmp_path / "w" / "begin.safetensors").rename(tmp_path / "begin.safetensors")
    with llm_sepweight.open(tmp_path / "w") as weights:
        assert len(weights.part("2-3").names) == 2
        with pytest.raises(WeightsError, match=r"to which end\.lm_head\.weight is tied; .* \(begin\.safetensors\)"):
            weights.part("2-3 e")
    (tmp_path / "n").mkdir()
    (tmp_path / "w" / "sepweight.json").rename(tmp_path / "n" / "sepweight.json")
    names = llm_sepweight.get_filenames("2-3 e", path=tmp_path / "n")
    assert names == ["begin.safetensors", "mid.00002.safetensors", "end.safetensors"]
    assert llm_sepweight.get_filenames("2-3", path=tmp_path / "n") == ["mid.00002.safetensors"]
