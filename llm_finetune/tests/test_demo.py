"""Trained models, finetuned on texts that they have never seen."""

import os
import shutil
from pathlib import Path

import pytest

import llm_blocks
import llm_sepweight
from llm_blocks import testing
from llm_finetune import JSON, Eval, Rows, Sample, Train, finetune
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


@pytest.mark.slow
def test_a_trained_model_of_another_kind_learns_to_answer_instructions(tmp_path: Path) -> None:
    """stories260K, which has 260 thousand weights and has seen stories alone, on 990 rows twice; 110 are held out."""
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is unset: it names the folder with stories260K and the instruction rows")
    source, rows = Path(os.environ["LLM_TEST_DATA"]) / "models" / "stories260K", "instruct/instruction-data.json"
    config, weights = llm_blocks.find_importer("llama2c").open(source / "stories260K.bin")
    folder = tmp_path / "stories"
    llm_sepweight.write(folder, weights, config=config.to_hf())
    shutil.copy(source / "tok512.model", folder / "tokenizer.model")
    train = Train(epochs=2, micro_batch_size=16, learning_rate=2e-3, lr_warmup_fraction=0.1)
    run = finetune(
        folder,
        JSON(str(Path(os.environ["LLM_TEST_DATA"]) / rows), val_split_fraction=0.1, prompt_style="alpaca"),
        out_dir=tmp_path / "out",
        train=train,
        eval=Eval(initial_validation=True, interval=None, max_new_tokens=20),
    )
    assert run.step == 124
    assert run.history[0]["val_loss"] == pytest.approx(5.15, abs=0.01)
    assert run.val_loss is not None
    assert run.val_loss < 2.2  # 2.14 on the machine on which this was written
    assert run.final is not None
    assert Tokenizer.load(run.final).chat_template is not None
