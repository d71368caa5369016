"""The model that ships with llm_cli, finetuned on a handful of texts that it has never seen."""

from pathlib import Path

import pytest

import llm_blocks
from llm_blocks import testing
from llm_finetune import Eval, Rows, Sample, Train, finetune
from llm_tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "llm_cli" / "src" / "llm_cli" / "demo"
ANIMALS = ["otter", "heron", "badger", "lynx", "newt", "stork", "viper", "bison", "crane", "moose", "tapir", "gecko"]


@pytest.mark.skipif(not DEMO.exists(), reason="the model ships with llm_cli")
def test_the_model_that_ships_learns_a_new_fact_and_its_folder_keeps_the_tokenizer(tmp_path: Path) -> None:
    """In bf16, as it ships: the answer is the same for all animals, two of which are held out."""
    tokenizer, model = Tokenizer.load(DEMO), llm_blocks.load(DEMO)
    samples = []
    for animal in ANIMALS:
        messages = [{"role": "user", "content": f"What colour is the {animal}?"}]
        prompt = tokenizer.encode_chat(messages)
        whole = tokenizer.encode_chat(
            [*messages, {"role": "assistant", "content": "Ultramarine, by law."}], add_generation_prompt=False
        )
        assert whole[: len(prompt)] == prompt
        samples.append(Sample(ids=whole, weights=[0.0] * len(prompt) + [1.0] * (len(whole) - len(prompt))))
    rows = Rows(train=samples[:-2], val=samples[-2:])
    train = Train(epochs=12, global_batch_size=5, micro_batch_size=5, learning_rate=1e-3, lr_warmup_steps=2)
    run = finetune(
        model, rows, tokenizer=tokenizer, out_dir=tmp_path / "out", train=train, eval=Eval(initial_validation=True)
    )
    assert run.before is not None
    assert "Ultramarine" not in run.before
    assert run.after == "Ultramarine, by law."
    assert run.history[0]["val_loss"] > 3
    assert run.val_loss is not None
    assert run.val_loss < 0.2
    assert run.final is not None
    again = Tokenizer.load(run.final)
    prompt = again.encode_chat([{"role": "user", "content": f"What colour is the {ANIMALS[-1]}?"}])
    found = testing.greedy(llm_blocks.load(run.final), prompt, 12)
    assert again.decode(found).startswith("Ultramarine, by law.")
