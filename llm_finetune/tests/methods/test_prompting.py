"""LLaMA-Adapter through the loop: what trains, what the result's folder holds, and what is refused of such a folder."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_blocks
from llm_finetune import (
    AdapterSettings,
    Rows,
    Sample,
    Train,
    adapter_parameters,
    adapters,
    add_adapter,
    add_adapter_v2,
    base_of,
    finetune,
    is_adapter,
    load_adapter,
    with_adapter,
    with_adapter_v2,
    write_prompts,
)
from llm_quant import quantize
from llm_sepweight import WeightsError

SETTINGS = AdapterSettings(prompt_length=4, start_layer=1)
TRAIN = Train(epochs=3, global_batch_size=4, micro_batch_size=2, learning_rate=3e-2, lr_warmup_steps=2)
IDS = torch.arange(24).view(2, 12)
METHODS = [with_adapter, with_adapter_v2]


@pytest.fixture
def rows(make_samples: Any) -> Rows:
    return Rows(train=make_samples(14), val=make_samples(5, seed=1))


def _after(steps: int) -> Any:
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


@pytest.mark.parametrize("scheme", [None, "int8"])
@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_to_the_bit_and_its_folder_has_what_was_learnt(
    make_model: Any, rows: Rows, tmp_path: Path, method: Any, scheme: Any
) -> None:
    def model() -> Any:
        return make_model() if scheme is None else quantize(make_model(), scheme, group_size=16)

    def run(made: Any, folder: str, **more: Any) -> Any:
        return finetune(
            made, rows, method=method(SETTINGS, base="tiny"), out_dir=tmp_path / folder, train=TRAIN, **more
        )

    trained = model()
    whole = run(trained, "whole")
    assert run(model(), "parts", stop=_after(4)).interrupted
    resumed = run(model(), "parts", resume=True)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    assert whole.train_loss < whole.history[0]["loss"]
    files = [tmp_path / each / "final" / "adapter_model.safetensors" for each in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert is_adapter(whole.final)
    assert base_of(whole.final) == "tiny"
    with torch.no_grad():
        assert torch.equal(load_adapter(model(), whole.final)(IDS), trained(IDS))
        assert not torch.allclose(model()(IDS), trained(IDS), atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_preferences_are_compared_with_the_model_without_it(make_model: Any, method: Any) -> None:
    chosen = [Sample(ids=[n, n + 1, n + 2], weights=[0, 1, 1]) for n in range(8)]
    rejected = [Sample(ids=[n, n + 2, n + 1], weights=[0, 1, 1]) for n in range(8)]
    pairs, train = list(zip(chosen, rejected, strict=True)), Train(epochs=20, global_batch_size=4, learning_rate=3e-2)
    run = finetune(make_model(), pairs, method=method(SETTINGS, base="tiny"), train=train)
    assert run.history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert run.train_loss is not None
    assert run.train_loss < 0.69


@pytest.mark.parametrize("add", [add_adapter, add_adapter_v2])
@torch.no_grad()
def test_a_part_of_the_model_reads_its_own_layers(make_model: Any, tmp_path: Path, add: Any) -> None:
    model = add(make_model(), AdapterSettings(prompt_length=4, start_layer=0))
    for each in adapter_parameters(model).values():
        each.add_(0.1)
    write_prompts(tmp_path / "adapter", model, AdapterSettings(prompt_length=4, start_layer=0), base="tiny")
    llm_blocks.save(make_model(), tmp_path / "base")
    parts = [
        load_adapter(llm_blocks.load(tmp_path / "base", part), tmp_path / "adapter") for part in ("b 0-1", "1-2 e")
    ]
    assert torch.equal(parts[1](parts[0](IDS)), model(IDS))


def _folder(make_model: Any, folder: Path) -> Path:
    write_prompts(folder, add_adapter(make_model(), SETTINGS), SETTINGS, base="tiny")
    return folder


def test_peft_refuses_it_by_name(make_model: Any, tmp_path: Path) -> None:
    import peft

    with pytest.raises(Exception, match="LLM_ADAPTER"):
        peft.PeftConfig.from_pretrained(str(_folder(make_model, tmp_path / "a")))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"version": 3}, "version 3 of LLM_ADAPTER"),
    "unknown": ({"scaling": 2}, "scaling is no key"),
    "long": ({"prompt_length": 10**9}, "prompt_length is from 1 to 4096"),
    "base": ({"base_model_name_or_path": 4}, "must be a string"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_config_that_cannot_be_honoured_is_refused(make_model: Any, tmp_path: Path, change: str) -> None:
    folder = _folder(make_model, tmp_path / "a")
    changes, rule = CHANGES[change]
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(WeightsError, match=rule):
        load_adapter(make_model(), folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda tensors: tensors.pop("mid.1.attention.gate"),
        lambda tensors: tensors.update({"mid.1.attention.gate": torch.zeros(5)}),
        lambda tensors: tensors.update({"mid.0.attention.gate": torch.zeros(4)}),
        lambda tensors: tensors.update({"mid.1.attention.gate": torch.zeros(4, dtype=torch.int64)}),
    ],
)
def test_tensors_of_another_model_are_refused_and_nothing_changes(
    make_model: Any, tmp_path: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    folder, model = _folder(make_model, tmp_path / "a"), make_model()
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"attention\.gate|no floating numbers"):
        load_adapter(model, folder)
    assert not adapters(model)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in make_model().named_parameters()]


def test_the_base_must_be_named() -> None:
    with pytest.raises(ValueError, match="give base"):
        with_adapter(base="")
