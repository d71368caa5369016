"""Checkpoints that can't be loaded: each is refused in a sentence that names the file, the tensor and the way out."""

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


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")


@pytest.mark.parametrize("section", ["begin", "end"])
def test_a_missing_file_of_a_sepweight_folder_is_named(folder: Path, model: Any, tmp_path: Path, section: str) -> None:
    llm_sepweight.write(tmp_path / "sep", model.state_dict().items(), config=llm_blocks.read_config(folder))
    (tmp_path / "sep" / f"{section}.safetensors").unlink()
    with pytest.raises(WeightsError, match=rf"sep/{section}\.safetensors: missing.* {section}\..*; copy it there too"):
        llm_blocks.load(tmp_path / "sep")


def test_the_end_of_a_tied_checkpoint_says_that_it_needs_the_embedding(toy: ModuleType, tmp_path: Path) -> None:
    """It lacked "end.head.weight", which no file of a tied checkpoint has."""
    model = llm_blocks.new_model(toy.Config(tie_embeddings=True))
    llm_blocks.save(model, tmp_path / "tied")
    llm_sepweight.write(tmp_path / "sep", model.state_dict(), config=llm_blocks.read_config(tmp_path / "tied"))
    (tmp_path / "sep" / "begin.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"embedding begin\.embed\.weight, which the end needs.*filenames '1-3 e' --path"
    ):
        llm_blocks.load(tmp_path / "sep", "1-3 e")
    assert llm_sepweight.get_filenames("1-3 e", path=tmp_path / "sep")[0] == "begin.safetensors"
    _rewrite(tmp_path / "tied", lambda tensors: {k: v for k, v in tensors.items() if "embed" not in k})
    with pytest.raises(
        WeightsError, match=r"lacks the embedding embed\.weight \(here begin\.embed\.weight\), which the end"
    ):
        llm_blocks.load(tmp_path / "tied", "1-3 e")
    with pytest.raises(WeightsError, match=r"lacks embed\.weight .*which config\.json says"):
        llm_blocks.load(tmp_path / "tied", "b")


def test_the_missing_end_of_a_tied_checkpoint_is_named(toy: ModuleType, tmp_path: Path) -> None:
    """The tied head, which lies in begin.safetensors, passed for a tensor of the end's own file."""
    model = llm_blocks.new_model(toy.Config(tie_embeddings=True))
    llm_blocks.save(model, tmp_path / "tied")
    llm_sepweight.write(tmp_path / "sep", model.state_dict(), config=llm_blocks.read_config(tmp_path / "tied"))
    (tmp_path / "sep" / "end.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"sep/end\.safetensors: missing, though it should hold end\.norm\.weight,"):
        llm_blocks.load(tmp_path / "sep")


def test_a_config_that_claims_countless_layers_is_refused_before_they_are_made(
    folder: Path, toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module was made for each of up to 2^31 layers before any was looked for in the files."""
    config = llm_blocks.read_config(folder)
    (folder / "config.json").write_text(json.dumps(config | {"layers": 2**16}))
    monkeypatch.setattr(toy, "Block", lambda config: pytest.fail("a layer was made"))
    with pytest.raises(WeightsError, match=r"lacks layer 3 \(mid\.3\.\*\), which config\.json says"):
        llm_blocks.load(folder)
    with pytest.raises(WeightsError, match="lacks layer 5"):
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


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "1.query" not in k},
            r"lacks layers\.1\.query\.weight \(here mid\.1\.q\.weight\), which",
        ),
        (
            lambda t: t | {"layers.0.key_value.weight": torch.zeros(3, 4)},
            r"safetensors: layers\.0\.key_value\.weight .* has shape \(3, 4\), config\.json asks for \(16, 16\)",
        ),
        (lambda t: t | {"layers.3.norm.weight": torch.ones(16)}, r"safetensors: holds layers\.3\.norm\.weight "),
        (lambda t: t | {"layers.0.gate.weight": torch.ones(16)}, r"saved: unknown tensor 'layers\.0\.gate\.weight'"),
        (lambda t: t | {"norm.weight": torch.ones(16, dtype=torch.int8)}, r" norm\.weight .* is torch\.int8"),
        (lambda t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()}, r"is torch\.float8_e4m3fn; quantized weights"),
    ],
    ids=["missing", "shape", "layer beyond", "unknown", "quantized", "fp8"],
)
def test_wrong_tensors_are_named_with_their_file(folder: Path, change: Any, rule: str) -> None:
    _rewrite(folder, change)
    with pytest.raises(WeightsError, match=rule):
        llm_blocks.load(folder)


@pytest.mark.parametrize(
    ("name", "tensor", "rule"),
    [
        ("model.layers.1.query.weight", torch.zeros(3, 4), r" has shape \(3, 4\)"),
        ("model.layers.1.query.weight", torch.ones(16, 16, dtype=torch.int8), r" is torch\.int8"),
        ("model.layers.3.query.weight", torch.zeros(16, 16), ", which config"),
    ],
    ids=["shape", "dtype", "unexpected"],
)
def test_a_tensor_that_is_there_goes_by_the_name_that_it_has(
    folder: Path, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, tensor: torch.Tensor, rule: str
) -> None:
    """It was called by the first spelling of the table, which the file may not have."""
    monkeypatch.setitem(toy.NAMES, "model.layers.{i}.query.weight", "mid.{i}.q.weight")
    _rewrite(folder, lambda tensors: {k: v for k, v in tensors.items() if k != name[len("model.") :]} | {name: tensor})
    with pytest.raises(WeightsError, match=rf"safetensors: (holds )?{name} \(here mid\..\.q\.weight\){rule}"):
        llm_blocks.load(folder)


def test_a_truncated_shard_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        llm_blocks.load(folder)


def test_a_missing_or_malformed_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json"):
        llm_blocks.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: not valid JSON"):
        llm_blocks.load(tmp_path)


@pytest.mark.parametrize("read", [load_config, llm_blocks.load])
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"model_type": None}, r"^FILE lacks the key 'model_type', which names the architecture"),
        ({"model_type": "toi"}, r"^FILE: no installed package implements model_type 'toi'"),
        ({"dim": None}, r"^FILE lacks the key 'dim'$"),
        ({"dim": "x"}, r"^dim in FILE must be a whole number, got 'x'"),
        ({"config.json": 1}, r"^FILE has the key 'config\.json' = 1, which is not supported"),
        ({"rope_parameters": {"rope_type": "x"}}, r"^.*FILE.*"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_a_config_is_told_with_its_folder(
    folder: Path, read: Callable[[Path], Any], change: dict[str, Any], rule: str
) -> None:
    """Nobody knew whose config.json was meant, and an absent model_type was called 'None'."""
    file = folder / "config.json"
    file.write_text(json.dumps(llm_blocks.read_config(folder) | change))
    with pytest.raises(ValueError, match=rule.replace("FILE", str(file))):
        read(folder)


def test_what_is_no_checkpoint_of_ours_is_named_as_what_it_is(toy: ModuleType, tmp_path: Path) -> None:
    """An adapter and a GGUF file were only said to have no config.json."""
    (tmp_path / "tiny.gguf").touch()
    for path in (tmp_path, tmp_path / "tiny.gguf"):
        with pytest.raises(WeightsError, match=r"tiny\.gguf: GGUF files aren't read"):
            llm_blocks.load(path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(WeightsError, match=r"holds an adapter .*; give its base model 'org/base'"):
        load_config(tmp_path)


@pytest.mark.parametrize("beside", ["tiny.gguf", "adapter_config.json"])
def test_config_json_is_what_good_weights_lack(folder: Path, beside: str) -> None:
    """What lay beside them was told instead, as if it were all."""
    (folder / "config.json").unlink()
    (folder / beside).write_text("{}")
    for read in (load_config, llm_blocks.load):
        with pytest.raises(WeightsError, match=r"saved/config\.json: can't be read \(No such file"):
            read(folder)


@pytest.mark.parametrize("dtype", ["float16", torch.int8])
def test_a_dtype_that_is_none_is_refused_with_an_example(folder: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=rf"such as torch\.float16, not '?{dtype}"):
        llm_blocks.load(folder, dtype=dtype)
