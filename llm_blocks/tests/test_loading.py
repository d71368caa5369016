"""load() and save() with the toy architecture, in the layouts that a folder may have."""

import json
from collections.abc import Callable
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


@pytest.fixture
def model(toy: ModuleType) -> Any:
    return llm_blocks.new_model(toy.Config(), std=0.3, seed=3).eval()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    llm_blocks.save(model, tmp_path / "saved")
    return tmp_path / "saved"


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
    with pytest.raises(WeightsError, match=r"lacks mid\.0\."):
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


def test_a_config_that_claims_countless_layers_is_refused_before_they_are_made(
    folder: Path, toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module was made for each of up to 2^31 layers before any was looked for in the files."""
    config = llm_blocks.read_config(folder)
    (folder / "config.json").write_text(json.dumps(config | {"layers": 2**16}))
    monkeypatch.setattr(toy, "Block", lambda config: pytest.fail("a layer was made"))
    with pytest.raises(WeightsError, match=r"lacks mid\.3\.\*, which config\.json says"):
        llm_blocks.load(folder)
    with pytest.raises(WeightsError, match=r"lacks mid\.5\.\*"):
        llm_blocks.load(folder, "5-9")


@pytest.mark.parametrize("part", ["f", "b", "0-1"])
def test_more_layers_than_any_model_has_are_refused_for_every_part(
    folder: Path, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A model with windows lists its layers: a part without layers, or random weights, took 16 GB to say no."""
    config = llm_blocks.read_config(folder) | {"layers": 2**31 - 1}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(toy, "Model", lambda *_: pytest.fail("a model was made"))
    rule = "a model of 2147483647 layers is not supported"
    with pytest.raises(ValueError, match=rule):
        llm_blocks.load(folder, part)
    with pytest.raises(ValueError, match=rule):
        llm_blocks.new_model(toy.Config.from_hf(config), part)


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


def test_a_folder_that_nobody_claims_lacks_config_json(toy: ModuleType, tmp_path: Path) -> None:
    for read in (load_config, open_checkpoint, llm_blocks.load):
        with pytest.raises(WeightsError, match=r"config\.json"):
            read(tmp_path)


def test_a_tied_checkpoint_with_another_head_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    llm_blocks.save(llm_blocks.new_model(toy.Config(tie_embeddings=True)), tmp_path / "tied")
    _rewrite(tmp_path / "tied", lambda tensors: tensors | {"head.weight": tensors["embed.weight"].clone()})
    loaded = llm_blocks.load(tmp_path / "tied")
    assert loaded.end.head.weight is loaded.begin.embed.weight
    _rewrite(tmp_path / "tied", lambda tensors: tensors | {"head.weight": tensors["embed.weight"] + 1})
    with pytest.raises(WeightsError, match="the head differs from the embedding"):
        llm_blocks.load(tmp_path / "tied")


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: {k: v for k, v in t.items() if "1.query" not in k}, r"lacks mid\.1\.q\.weight"),
        (
            lambda t: t | {"layers.0.key_value.weight": torch.zeros(3, 4)},
            r"safetensors: mid\.0\.kv\.weight has shape \(3, 4\), config\.json asks for \(16, 16\)",
        ),
        (lambda t: t | {"layers.3.norm.weight": torch.ones(16)}, r"safetensors: holds mid\.3\.norm\.weight"),
        (lambda t: t | {"layers.0.gate.weight": torch.ones(16)}, r"saved: unknown tensor 'layers\.0\.gate\.weight'"),
        (lambda t: t | {"norm.weight": torch.ones(16, dtype=torch.int8)}, r"end\.norm\.weight is torch\.int8"),
        (lambda t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()}, r"is torch\.float8_e4m3fn; quantized weights"),
    ],
    ids=["missing", "shape", "layer beyond", "unknown", "quantized", "fp8"],
)
def test_wrong_tensors_are_named_with_their_file(folder: Path, change: Any, rule: str) -> None:
    _rewrite(folder, change)
    with pytest.raises(WeightsError, match=rule):
        llm_blocks.load(folder)


def test_a_truncated_shard_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        llm_blocks.load(folder)


def test_a_computed_buffer_of_an_older_checkpoint_is_ignored(folder: Path, model: Any) -> None:
    _rewrite(folder, lambda t: t | {"layers.0.rotary_emb.inv_freq": torch.zeros(2)})
    assert torch.equal(llm_blocks.load(folder)(IDS), model(IDS))


def test_a_missing_or_malformed_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        llm_blocks.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: not valid JSON"):
        llm_blocks.load(tmp_path)


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
