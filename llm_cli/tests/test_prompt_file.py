"""Prompts that were read, in files: what comes back, and files that pretend."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_blocks.cache_file import write_cache
from llm_cli import LLM
from llm_cli.fingerprint import fingerprint
from llm_cli.generation import Generation
from llm_cli.options import Options
from llm_cli.reading import PromptCache


def ids_of(length: int) -> list[int]:
    return torch.randint(97, (length,), generator=torch.Generator().manual_seed(0)).tolist()


def answer(model: Any, ids: list[int], cache: PromptCache, new: int = 12) -> Any:
    options = Options(temperature=0, max_new_tokens=new, ignore_eos=True, logprobs=5)
    one = Generation(model, [ids], options, tokenizer=None, limit=2048, cache=cache).finish()[0]
    return (one.token_ids, one.logprobs), one.cached_tokens


@pytest.fixture
def saved(small_model: Callable[[str], Any], tmp_path: Path) -> Path:
    """A prompt of 200 ids that the plain model has read."""
    cache = PromptCache(exact=True)
    answer(small_model("plain"), ids_of(200), cache)
    cache.save(tmp_path / "prompt")
    return tmp_path / "prompt"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", [400, 256, 256, 64]),
        ("window", [256, 256, 256, 0]),
        ("longrope", [400, 256, 256, 0]),
        ("dynamic", [400, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("new", [1, 200])
def test_a_file_gives_what_reading_again_gives(
    kind: str, expected: list[int], new: int, small_model: Callable[[str], Any], tmp_path: Path
) -> None:
    """Also where windows went on, and where a text crossed into other angles after the prompt was saved."""
    model, cache, ids = small_model(kind), PromptCache(exact=True), ids_of(600)
    answer(model, ids[:400], cache, new)
    cache.save(tmp_path / "prompt")
    known = []
    for turn in (ids[:400], ids, [*ids[:390], 1], ids[:100]):
        found, count = answer(model, turn, PromptCache.load(tmp_path / "prompt", model))
        assert found == answer(model, turn, PromptCache(exact=True))[0]
        known.append(count)
    assert known == expected


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "int4"])
def test_the_model_that_ships_goes_on_in_each_precision(precision: str, tmp_path: Path) -> None:
    llm = LLM.load(distribute=None)
    quantize = precision if precision.startswith("int") else None
    llm.distribute("cpu", precision=None if quantize else precision, quantize=quantize)
    story = "Once upon a time there was a little bear who lived in the forest. " * 10
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 20, "logprobs": 5}
    cache = PromptCache(exact=True)
    llm.complete(story, cache=cache, **options)
    cache.save(tmp_path / "story")
    for prompt in (story, story + "And"):
        warm = llm.complete(prompt, cache=PromptCache.load(tmp_path / "story", llm.model), **options)[0]
        cold = llm.complete(prompt, cache=PromptCache(exact=True), **options)[0]
        assert (warm.token_ids, warm.logprobs) == (cold.token_ids, cold.logprobs)
        assert warm.cached_tokens >= 128


def test_a_file_holds_the_prompt_and_no_answer(saved: Path, small_model: Callable[[str], Any]) -> None:
    stored = load_file(saved)
    assert stored["extra.ids"].tolist() == ids_of(200)
    assert {tensor.size(2) for name, tensor in stored.items() if name[0] in "kv"} == {200}
    assert saved.stat().st_size < 3 * 2 * 4 * 8 * 4 * 200 + 10_000
    loaded = PromptCache.load(saved, small_model("plain"))
    assert loaded.differences == ()
    loaded.save(saved, overwrite=True)
    assert load_file(saved).keys() == stored.keys()


def test_nothing_read_is_nothing_to_save(small_model: Callable[[str], Any], tmp_path: Path) -> None:
    for cache in (PromptCache(exact=True), PromptCache()):
        with pytest.raises(ValueError, match="nothing was read exactly"):
            cache.save(tmp_path / "prompt")
    followed = PromptCache()
    answer(small_model("plain"), ids_of(200), followed)
    with pytest.raises(ValueError, match="nothing was read exactly"):
        followed.save(tmp_path / "prompt")
    assert list(tmp_path.iterdir()) == []


def edited(model: Any) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.mid["2"].mlp.down.weight[3, 7] += 0.01
    return other


def test_a_file_of_another_model_is_refused(saved: Path, small_model: Callable[[str], Any]) -> None:
    """Of other numbers, of one other number, of another dtype, of other shapes."""
    plain = small_model("plain")
    for other in (small_model("dynamic"), edited(plain), copy.deepcopy(plain).bfloat16(), LLM.load().model):
        with pytest.raises(ValueError, match="read by another model, or by this one in another precision"):
            PromptCache.load(saved, other)
    twin = copy.deepcopy(plain)
    assert answer(twin, ids_of(200), PromptCache.load(saved, twin))[1] == 200


def test_every_tensor_and_the_configuration_make_a_fingerprint(small_model: Callable[[str], Any]) -> None:
    model = copy.deepcopy(small_model("plain"))
    seen = {fingerprint(model)}
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.view(-1)[parameter.numel() // 3] += 0.5
        seen.add(fingerprint(model))
    model.config = small_model("window").config
    seen.add(fingerprint(model))
    assert len(seen) == len(list(model.parameters())) + 2
    assert fingerprint(model) == fingerprint(copy.deepcopy(model))


def test_quantized_and_accelerated_models_have_fingerprints_of_their_own() -> None:
    """The kernels of bf16 leave the weights alone, so that a file is good with and without them."""
    found = []
    for precision, quantize in (("32-true", None), ("bf16-true", None), (None, "int8"), (None, "int4")):
        pair = [LLM.load(distribute=None) for _ in range(2)]
        for llm in pair:
            llm.distribute("cpu", precision=precision, quantize=quantize)
        assert fingerprint(pair[0].model) == fingerprint(pair[1].model)
        found.append(fingerprint(pair[0].model))
    assert len(set(found)) == 4


def changed(path: Path, tensors: dict[str, Tensor | None], header: dict[str, str | None]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **header}
    stored = {**load_file(path), **tensors}
    save_file(
        {name: tensor for name, tensor in stored.items() if tensor is not None},
        path,
        metadata={name: value for name, value in metadata.items() if value is not None},
    )


IDS = torch.arange(200) % 97
KV = json.dumps({"version": 1, "lengths": [201], "tops": [201], "long": [False]})


@pytest.mark.parametrize(
    ("tensors", "header", "rule"),
    [
        ({"extra.ids": None}, {}, "lacks the ids"),
        ({"extra.ids": IDS - 1}, {}, "some that the model doesn't know"),
        ({"extra.ids": IDS + 1}, {}, "some that the model doesn't know"),
        ({"extra.ids": IDS[:-1]}, {}, r"'extra.ids' is torch.int64 of shape \(199,\)"),
        ({"extra.ids": IDS.float()}, {}, "'extra.ids' is torch.float32"),
        ({"extra.end": torch.zeros(96)}, {}, r"'extra.end' is torch.float32 of shape \(96,\)"),
        ({"extra.end": torch.zeros(97, dtype=torch.float64)}, {}, "'extra.end' is torch.float64"),
        ({"extra.end": torch.full((97,), torch.nan)}, {}, "'extra.end' holds numbers that aren't finite"),
        ({"k.1": None}, {}, "lacks 'k.1'"),
        ({}, {"format": None}, "no prompt that they belong to"),
        ({}, {"model": None}, "read by another model"),
        ({}, {"made_by": None}, "doesn't say on what it was made"),
        ({}, {"made_by": "{"}, "doesn't say on what it was made"),
        ({}, {"made_by": "[" * 100_000}, "doesn't say on what it was made"),
        ({}, {"text_length": None}, "of how long a text it holds 200 ids"),
        ({}, {"text_length": "199"}, "of how long a text it holds 200 ids, not '199'"),
        ({}, {"text_length": "9" * 5000}, "of how long a text it holds 200 ids"),
        ({}, {"text_length": "-1"}, "of how long a text it holds 200 ids"),
        ({}, {"text_length": "300"}, "has logits of another prompt"),
        ({}, {"kv_cache": KV}, r"and this model has torch.float32 of \(1, 4, 201, 8\)"),
        ({}, {"kv_cache": None}, "holds no keys and values"),
    ],
)
def test_what_can_not_be_is_refused(
    tensors: dict[str, Any], header: dict[str, Any], rule: str, saved: Path, small_model: Callable[[str], Any]
) -> None:
    changed(saved, tensors, header)
    with pytest.raises(ValueError, match=rule):
        PromptCache.load(saved, small_model("plain"))


def test_a_prompt_is_one_row(saved: Path, small_model: Callable[[str], Any]) -> None:
    model = small_model("plain")
    kv = model.new_cache(2, 5)
    with safe_open(saved, framework="pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "kv_cache"}
    write_cache(saved, kv, metadata=metadata, overwrite=True)
    with pytest.raises(ValueError, match="holds 2 rows, and a prompt is one"):
        PromptCache.load(saved, model)


def test_another_machine_is_told(saved: Path, small_model: Callable[[str], Any]) -> None:
    changed(saved, {}, {"made_by": json.dumps({"torch": "1.0", "device": "cpu"})})
    told = PromptCache.load(saved, small_model("plain")).differences
    assert told[0].startswith("torch 1.0, here 2.")
    assert len(told) >= 2
