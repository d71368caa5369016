"""A head that is tied or untied for full finetuning, and a saved config that says which it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import llm_blocks
from llm_finetune import Lora, Train, finetune, with_lora

IDS = torch.arange(24).view(2, 12)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wanted", [None, False, True])
def test_the_folder_says_and_holds_what_was_trained(
    make_model: Any, make_samples: Any, tmp_path: Path, before: bool, wanted: bool | None
) -> None:
    model, tied = make_model(tie_embeddings=before), before if wanted is None else wanted
    start = model(IDS)
    train = Train(epochs=2, global_batch_size=4, save_interval=2, tie_embeddings=wanted)
    left = iter(range(2))
    finetune(model, make_samples(8), out_dir=tmp_path, train=train, stop=lambda: next(left, None) is None)
    again = make_model(tie_embeddings=before)
    run = finetune(again, make_samples(8), out_dir=tmp_path, train=train, resume=True)
    assert run.final is not None
    assert json.loads((run.final / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in load_file(run.final / "model.safetensors")) is not tied
    assert (again.end.head.weight is again.begin.embed.weight) is tied
    loaded = llm_blocks.load(run.final)
    assert torch.equal(loaded(IDS), again(IDS))
    assert not torch.equal(again(IDS), start)


def test_untying_changes_nothing_at_first(make_model: Any, make_samples: Any) -> None:
    losses = []
    for wanted in (None, False):
        train = Train(epochs=1, max_steps=1, tie_embeddings=wanted)
        losses.append(finetune(make_model(tie_embeddings=True), make_samples(8), train=train).history[0]["loss"])
    assert losses[0] == losses[1]


def test_it_is_of_full_finetuning(make_model: Any, make_samples: Any) -> None:
    with pytest.raises(ValueError, match="tie_embeddings is of full finetuning"):
        finetune(make_model(), make_samples(4), method=with_lora(Lora()), train=Train(tie_embeddings=True))
