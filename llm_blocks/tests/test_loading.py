"""load() and save() with the toy architecture, in the layouts that a folder may have."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
import llm_sepweight
from llm_blocks.loading import load_config, open_checkpoint
from llm_sepweight import WeightsError

IDS = torch.arange(10)[None]


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    """Where they are wanted, torch's operators take the small steps, whose last bits differ from the kernels'."""
    with torch.no_grad():
        yield


@pytest.mark.parametrize("max_shard_bytes", [10**9, 2000, 1])
def test_a_saved_model_loads_bit_for_bit(model: Any, tmp_path: Path, max_shard_bytes: int) -> None:
    llm_blocks.save(model, tmp_path / "saved", max_shard_bytes=max_shard_bytes)
    loaded = llm_blocks.load(tmp_path / "saved")
    assert loaded.config == model.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(IDS), model(IDS))


def test_shards_are_no_larger_than_asked_and_all_are_indexed(model: Any, tmp_path: Path) -> None:
    llm_blocks.save(model, tmp_path / "saved", max_shard_bytes=2500)
    shards = {path.name: load_file(path) for path in (tmp_path / "saved").glob("*.safetensors")}
    index = json.loads((tmp_path / "saved" / "model.safetensors.index.json").read_text())
    assert len(shards) > 1
    assert index["weight_map"] == {name: file for file, tensors in shards.items() for name in tensors}
    assert all(sum(t.nbytes for t in tensors.values()) <= 2500 for tensors in shards.values())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())


def test_a_part_has_its_own_weights_alone(folder: Path, model: Any) -> None:
    begin, end = llm_blocks.load(folder, "b 0-2"), llm_blocks.load(folder, "2-3 e")
    assert begin.end is None
    assert end.begin is None
    assert next(name for name in end.state_dict() if name.startswith("mid")).startswith("mid.2.")
    assert torch.equal(end(begin(IDS)), model(IDS))


def test_sepweight_folders_load_whole_and_in_part(folder: Path, model: Any, tmp_path: Path) -> None:
    config = llm_blocks.read_config(folder)
    llm_sepweight.write(tmp_path / "sep", model.state_dict().items(), config=config)
    assert torch.equal(llm_blocks.load(tmp_path / "sep")(IDS), model(IDS))
    (tmp_path / "sep" / "mid.00000.safetensors").unlink()  # a host of the last layers needs no others
    end = llm_blocks.load(tmp_path / "sep", "1-3 e")
    hidden = torch.randn(1, 4, 16)
    assert torch.equal(end(hidden), llm_blocks.load(folder, "1-3 e")(hidden))
    with pytest.raises(WeightsError, match=r"sep/mid\.00000\.safetensors: missing.* layer 0 .*; copy it there too"):
        llm_blocks.load(tmp_path / "sep")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_converted_and_none_keeps_the_checkpoints_own(folder: Path, dtype: torch.dtype) -> None:
    assert {p.dtype for p in llm_blocks.load(folder).parameters()} == {torch.float32}
    assert {p.dtype for p in llm_blocks.load(folder, dtype=dtype).parameters()} == {dtype}


def test_a_mixed_checkpoint_gets_the_dtype_of_its_most_bytes(folder: Path) -> None:
    """Norms kept in fp32 beside bf16 weights made products of unlike dtypes fail."""
    _rewrite(folder, lambda tensors: {k: v if "norm" in k else v.bfloat16() for k, v in tensors.items()})
    model = llm_blocks.load(folder, "1-2")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_part_beside_quantized_layers_keeps_its_own_dtype(folder: Path) -> None:
    """The dtype of the most bytes was that of quantized layers, and a part without any was rounded to it."""
    _rewrite(folder, lambda tensors: {k: v.to(torch.float8_e4m3fn) if "layers" in k else v for k, v in tensors.items()})
    assert {p.dtype for p in llm_blocks.load(folder, "b").parameters()} == {torch.float32}


def test_a_tied_head_is_stored_once_and_stays_shared(toy: ModuleType, tmp_path: Path) -> None:
    model = llm_blocks.new_model(toy.Config(tie_embeddings=True), std=0.3)
    llm_blocks.save(model, tmp_path / "tied")
    assert "head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")
    loaded = llm_blocks.load(tmp_path / "tied")
    assert loaded.end.head.weight is loaded.begin.embed.weight
    alone = llm_blocks.load(tmp_path / "tied", "1-3 e")
    assert torch.equal(alone(llm_blocks.load(tmp_path / "tied", "b 0-1")(IDS)), loaded(IDS))


def test_a_tied_checkpoint_may_store_the_head_alone(toy: ModuleType, tmp_path: Path) -> None:
    """The part with the beginning found no embedding there, though the whole model did."""
    llm_blocks.save(llm_blocks.new_model(toy.Config(tie_embeddings=True)), tmp_path / "tied")
    whole = llm_blocks.load(tmp_path / "tied")(IDS)
    _rewrite(tmp_path / "tied", lambda t: {k.replace("embed.weight", "head.weight"): v for k, v in t.items()})
    assert torch.equal(llm_blocks.load(tmp_path / "tied")(IDS), whole)
    begin, end = (llm_blocks.load(tmp_path / "tied", part) for part in ("b 0-2", "2-3 e"))
    assert torch.equal(end(begin(IDS)), whole)


def test_a_foreign_format_loads_by_its_importer_whole_and_in_part(folder: Path, model: Any) -> None:
    (folder / "config.json").rename(folder / "toy.json")
    assert torch.equal(llm_blocks.load(folder)(IDS), model(IDS))
    begin, end = llm_blocks.load(folder, "b 0-2"), llm_blocks.load(folder, "2-3 e")
    assert torch.equal(end(begin(IDS)), model(IDS))
    assert load_config(folder) == model.config
    with open_checkpoint(folder) as found:
        assert (found.kind, found.config, found.raw) == ("toy_format", model.config, model.config.to_hf())


def test_config_json_wins_over_a_foreign_format(folder: Path, model: Any) -> None:
    (folder / "toy.json").write_text("{}")
    assert torch.equal(llm_blocks.load(folder)(IDS), model(IDS))


def test_a_config_needs_no_weights(folder: Path, model: Any) -> None:
    (folder / "model.safetensors").unlink()
    assert load_config(folder) == model.config


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def test_a_computed_buffer_of_an_older_checkpoint_is_ignored(folder: Path, model: Any) -> None:
    _rewrite(folder, lambda t: t | {"layers.0.rotary_emb.inv_freq": torch.zeros(2)})
    assert torch.equal(llm_blocks.load(folder)(IDS), model(IDS))


def test_what_the_model_has_no_use_for_is_told_without_buffers_and_copies(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "NAMES", toy.NAMES | {"vision.*": "", "layers.{i}.mask": ""})
    llm_blocks.save(llm_blocks.new_model(toy.Config(tie_embeddings=True)), tmp_path / "tied")
    extra = ("vision.norm.weight", "layers.0.mask", "layers.0.rotary_emb.inv_freq")
    added = {name: torch.zeros(2) for name in extra}
    _rewrite(tmp_path / "tied", lambda t: t | added | {"head.weight": t["embed.weight"].clone()})
    with open_checkpoint(tmp_path / "tied") as found:
        assert found.left_out == ("vision.norm.weight",)
        assert set(found.weights.dropped) == set(extra)


def test_extra_keys_and_files_go_along_but_may_not_contradict(model: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    llm_blocks.save(model, tmp_path / "a", extra_config={"eos_token_id": 5}, copy=[tmp_path / "tokenizer.json"])
    assert llm_blocks.read_config(tmp_path / "a")["eos_token_id"] == 5
    assert (tmp_path / "a" / "tokenizer.json").exists()
    with pytest.raises(ValueError, match="extra_config has dim = 17, the model says 16"):
        llm_blocks.save(model, tmp_path / "b", extra_config={"dim": 17})
    assert not (tmp_path / "b").exists()


def test_nothing_is_overwritten_and_nothing_half_written_remains(model: Any, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="exists already"):
        llm_blocks.save(model, folder)
    with pytest.raises(FileNotFoundError):
        llm_blocks.save(model, tmp_path / "new", copy=[tmp_path / "absent.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_only_a_whole_model_is_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only a whole model makes a Hugging Face folder, this is part 1-3 e"):
        llm_blocks.save(llm_blocks.load(folder, "1-3 e"), tmp_path / "part")


def test_a_loaded_model_can_be_trained_when_asked(folder: Path) -> None:
    model = llm_blocks.load(folder, trainable=True)
    before = (folder / "model.safetensors").read_bytes()
    with torch.enable_grad():
        model(IDS).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert (folder / "model.safetensors").read_bytes() == before, "training wrote into the mapped file"


def test_parameters_that_a_model_calls_exact_stay_in_fp32(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Model, "exact", ("kv.bias",))
    model = llm_blocks.new_model(toy.Config(), dtype=torch.bfloat16)
    llm_blocks.save(model, tmp_path / "saved")
    for each in (model, llm_blocks.load(tmp_path / "saved", dtype=torch.bfloat16), llm_blocks.load(tmp_path / "saved")):
        found = {name: parameter.dtype for name, parameter in each.named_parameters()}
        assert found.pop("mid.1.kv.bias") == torch.float32
        assert found["mid.1.kv.weight"] == torch.bfloat16
