"""What is told before a run: counts that are those of the run, and what to change where memory is short."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_finetune import JSON, DryRun, Eval, Lora, Settings, Train, describe, finetune, load_data
from llm_tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.json").write_text(json.dumps({"h": 0, "i": 1, "hi": 2, "<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_text("h i\n")
    return Tokenizer.load(tmp_path)


@pytest.fixture
def dry(tmp_path: Path, tokenizer: Tokenizer, make_model: Any) -> Any:
    rows = [{"prompt": "h" * (1 + i % 3), "completion": "hi"} for i in range(7)] + [{"prompt": "h"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(free: int, **train: Any) -> tuple[Any, Any, Settings, DryRun]:
        data = load_data(JSON(str(tmp_path / "x.jsonl"), on_bad_row="skip"), tokenizer, vocab_size=61)
        model = make_model()
        settings = Settings(train=Train(**{"global_batch_size": 2, "epochs": 3, **train}), eval=Eval(interval=None))
        return model, data, settings, describe(data, settings, model, lora=Lora(r=2), free=free)

    return make


def test_its_counts_are_those_of_the_run(dry: Any) -> None:
    model, data, settings, told = dry(10**12)
    run = finetune(model, data, settings=settings)
    assert (told.steps, told.epochs, told.train_rows, told.val_rows) == (run.step, 3, 6, 1)
    assert told.trained_tokens == 12  # "hi" and the end of each of six rows
    assert told.fits
    text = str(told)
    assert "8 rows read, 7 kept; 1 left out: keys of no known kind" in text
    assert "x.jsonl:8: " in text
    assert "[[hi<|endoftext|>]]" in text
    assert "does not fit" not in text


def test_it_is_plain_data_too(dry: Any) -> None:
    values = json.loads(json.dumps(dry(10**12)[-1].values))
    assert values["report"]["dropped"] == {"keys of no known kind": 1}
    memory = values["memory"]
    shares = sum(size for name, size in memory.items() if name not in ("total", "reused"))
    assert memory["total"] == shares - memory["reused"] > 0


def test_what_to_change_where_memory_is_short(dry: Any) -> None:
    told = dry(10**6, micro_batch_size=2)[-1]
    assert not told.fits
    assert "it does not fit" in str(told)
    assert "--train.micro_batch_size 1" in str(told)
    again = dry(10**6, activation_checkpointing=True)[-1]
    assert not any("micro_batch_size" in hint or "activation" in hint for hint in again.hints)
    assert dry(0)[-1].fits  # what is free is not known
