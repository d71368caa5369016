"""`LLM.finetune`, and its results in every command that takes a model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_cli import LLM, PromptCache, demo_folder
from llm_cli.app import run
from llm_finetune import Lora, Run, Train, lora_parameters

ASKED, ANSWER = "What colour is the otter?", "Ultramarine, by law."
ANIMALS = ["otter", "heron", "badger", "lynx", "newt", "stork", "viper", "bison"]
TRAIN = Train(epochs=20, global_batch_size=4, learning_rate=3e-3, lr_warmup_steps=2)
LORA = Lora(r=8, mlp=True, key=True, projection=True)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    lines = [json.dumps({"prompt": f"What colour is the {animal}?", "completion": ANSWER}) for animal in ANIMALS]
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LLM, Run, PromptCache]:
    """The model that ships, finetuned, with a cache that it filled before."""
    llm, cache = LLM.load(), PromptCache()
    assert llm.generate(ASKED, temperature=0, cache=cache) != ANSWER
    return llm, llm.finetune(rows, lora=LORA, train=TRAIN, out_dir=tmp_path_factory.mktemp("out") / "run"), cache


def test_the_llm_itself_has_learnt_and_its_folders_say_the_same(trained: tuple[LLM, Run, PromptCache]) -> None:
    llm, run, cache = trained
    assert llm.generate(ASKED, temperature=0) == ANSWER
    assert llm.complete(ASKED, temperature=0, cache=cache)[0].cached_tokens == 0
    assert llm.adapters == []
    assert run.final is not None
    assert LLM.load(run.final).generate(ASKED, temperature=0) == ANSWER
    adapter = LLM.load(run.final.parent / "adapter")
    assert adapter.generate(ASKED, temperature=0) == ANSWER != adapter.generate(ASKED, temperature=0, adapter=None)


def test_a_merged_folder_goes_through_every_command(
    trained: tuple[LLM, Run, PromptCache], capsys: Any, tmp_path: Path
) -> None:
    final = str(trained[1].final)
    for command in (
        ["info", final],
        ["export", "hf", final, "--out", str(tmp_path / "hf")],
        ["export", "gguf", final, "--out", str(tmp_path / "model.gguf")],
        ["quantize", final, "--to", "int8", "--out", str(tmp_path / "int8")],
        ["convert", final, str(tmp_path / "converted")],
    ):
        assert run(command) == 0, command
    capsys.readouterr()
    for folder in (final, tmp_path / "hf", tmp_path / "int8", tmp_path / "converted"):
        assert run(["generate", str(folder), "--prompt", ASKED, "--temperature", "0"]) == 0
        assert capsys.readouterr().out == f"{ANSWER}\n"


def test_beside_quantized_weights_the_adapter_stays(rows: Path, tmp_path: Path) -> None:
    llm = LLM.load(distribute=None)
    llm.distribute(quantize="int8")
    before = llm.generate(ASKED, temperature=0)
    run = llm.finetune(rows, lora=LORA, train=TRAIN, out_dir=tmp_path / "out")
    assert llm.generate(ASKED, temperature=0) == ANSWER
    assert llm.adapters == ["default"]
    assert llm.generate(ASKED, temperature=0, adapter=None) == before
    again = LLM.load(run.final, distribute=None)
    again.distribute(quantize="int8")
    assert again.generate(ASKED, temperature=0) == ANSWER
    assert all(each.dtype == torch.float32 for each in lora_parameters(again.model).values())


def test_what_does_not_go_together_is_refused(trained: tuple[LLM, Run, PromptCache], rows: Path) -> None:
    final = trained[1].final
    assert final is not None
    llm = LLM.load(demo_folder(), adapters={"law": final.parent / "adapter"})
    with pytest.raises(ValueError, match="has the adapter 'law'; merge it first"):
        llm.finetune(rows)
    llm.merge()
    assert llm.generate(ASKED, temperature=0) == ANSWER


def test_a_method_is_named_as_in_the_command(rows: Path) -> None:
    llm = LLM.load()
    llm.finetune(
        rows, method="full", train=Train(epochs=12, global_batch_size=4, learning_rate=1e-3, lr_warmup_steps=2)
    )
    assert llm.generate(ASKED, temperature=0) == ANSWER
    with pytest.raises(ValueError, match="lora"):
        llm.finetune(rows, method="full", lora=LORA, train=Train(max_steps=1))
