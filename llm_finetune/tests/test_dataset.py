"""From files to samples: what is kept, cut, split and left out, and that nothing goes unsaid."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm_finetune.batches import Sample, pack
from llm_finetune.data_settings import JSON, DataSettings
from llm_finetune.dataset import Dataset, load_data
from llm_finetune.order import Order
from llm_finetune.rows import DataError, RowError
from llm_finetune.samples import Samples
from llm_tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes, <s> 256, </s> 257."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return Tokenizer.load(folder)


def write(folder: Path, name: str, rows: list[Any]) -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def answered(n: int) -> list[dict[str, str]]:
    return [{"question": f"q{i}", "answer": f"a{i}"} for i in range(n)]


def load(tokenizer: Tokenizer, path: str, places: int | None = None, **options: Any) -> Dataset:
    return load_data(JSON(path, **options), tokenizer, vocab_size=258, max_seq_length=places)


def shown(made: Dataset, samples: Samples) -> list[str]:
    return [made.renderer.show(sample) for sample in samples]


def test_rows_are_kept_in_order_and_some_held_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path, "x.jsonl", answered(40))
    made = load(tokenizer, path)
    assert (len(made.train), len(made.val), str(made.report)) == (38, 2, "40 rows read, 40 kept")
    assert shown(made, made.train)[0].startswith("q")
    places = [int(where.rpartition(":")[2]) for where in made.train.where]
    assert places == sorted(places)
    assert sorted([*made.train.where, *made.val.where]) == sorted(f"x.jsonl:{i}" for i in range(1, 41))
    assert made.val.where == load(tokenizer, path).val.where != load(tokenizer, path, seed=1).val.where
    assert len(load(tokenizer, path, val_split_fraction=0.5).val) == 20
    assert len(load(tokenizer, path, val_split_fraction=0).val) == 0
    assert len(load(tokenizer, write(tmp_path, "y.jsonl", answered(3))).val) == 1


def test_files_to_validate_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path, "train.jsonl", answered(5))
    val = write(tmp_path, "val.jsonl", answered(2))
    made = load(tokenizer, str(tmp_path))
    assert (len(made.train), made.val.where) == (5, ["val.jsonl:1", "val.jsonl:2"])
    assert len(load(tokenizer, str(tmp_path / "train.jsonl"), val_path=val).train) == 5
    with pytest.raises(DataError, match=r"leave data\.val_split_fraction out"):
        load(tokenizer, str(tmp_path), val_split_fraction=0.1)


def test_bad_rows_stop_or_are_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [*answered(4), {"question": "q"}, {"question": "q", "answer": ""}, {"x": 1}, {"input_ids": [1, 999]}]
    path = write(tmp_path, "x.jsonl", rows)
    with pytest.raises(RowError, match=r"^x\.jsonl:5: the keys \(question\)"):
        load(tokenizer, path)
    made = load(tokenizer, path, on_bad_row="skip", val_split_fraction=0)
    assert (made.report.read, made.report.kept, len(made.train)) == (8, 4, 4)
    reasons = {"keys of no known kind": 2, "'answer' is empty": 1, "an id past the vocabulary": 1}
    assert made.report.dropped == reasons
    assert [text.split(": ")[0] for text in made.report.bad] == ["x.jsonl:5", "x.jsonl:6", "x.jsonl:7"]
    assert "2 left out: keys of no known kind" in str(made.report)
    with pytest.raises(DataError, match=r"nothing is left to train on: 1 rows read, 0 kept; 1 left out"):
        load(tokenizer, write(tmp_path, "y.jsonl", [{"x": 1}]), on_bad_row="skip")
    with pytest.raises(DataError, match="nothing is left"):
        load(tokenizer, write(tmp_path, "z.jsonl", []))


def test_too_long_conversations_are_cut_or_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"question": "q", "answer": 20 * "a"}, {"question": 20 * "q", "answer": "a"}, *answered(1)]
    path = write(tmp_path, "x.jsonl", rows)
    made = load(tokenizer, path, 9, val_split_fraction=0, on_bad_row="skip")
    assert shown(made, made.train) == [f"q\n[[{8 * 'a'}]]", "q0\n[[a0</s>]]"]
    assert (made.report.cut, dict(made.report.dropped)) == (1, {"the prompt alone fills max_seq_length": 1})
    with pytest.raises(RowError, match=r"x\.jsonl:2: the prompt alone fills max_seq_length \(9\)"):
        load(tokenizer, path, 9)


def test_long_texts_go_on_in_further_samples(tmp_path: Path, tokenizer: Tokenizer) -> None:
    made = load(tokenizer, write(tmp_path, "x.jsonl", [{"text": "abcdefghij"}]), 4)
    assert shown(made, made.train) == ["a[[bcde]]", "e[[fghi]]", "i[[j</s>]]"]
    assert (made.report.split, made.train.where) == (1, 3 * ["x.jsonl:1"])
    assert made.train.trained_tokens == 10


def test_pairs_are_two_samples_a_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"prompt": f"q{i}", "chosen": i * "c", "rejected": "r"} for i in range(1, 9)]
    made = load(tokenizer, write(tmp_path, "x.jsonl", rows), 7, val_split_fraction=0)
    assert (len(made.train), made.train.rows, made.train.per_row, made.report.cut) == (16, 8, 2, 4)
    assert [made.renderer.show(sample) for sample in made.train.row(1)] == ["q2\n[[cc</s>]]", "q2\n[[r</s>]]"]
    assert made.train.lengths == [sum(len(sample.ids) - 1 for sample in made.train.row(r)) for r in range(8)]
    with pytest.raises(RowError, match="no pair of answers"):
        load(tokenizer, write(tmp_path, "y.jsonl", [*rows, *answered(1)]), val_split_fraction=0)


def test_whose_turns_count(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path, "x.jsonl", answered(1))
    for options in ({"mask_prompt": False}, {"loss": "all"}):
        made = load(tokenizer, path, val_split_fraction=0, **options)
        assert shown(made, made.train) == ["q[[0\na0</s>]]"]
    with pytest.raises(ValueError, match="disagree"):
        DataSettings(loss="all", mask_prompt=True)


def test_the_style_suits_the_rows(tmp_path: Path, tokenizer: Tokenizer) -> None:
    alpaca = [{"instruction": "q", "output": "a"}]
    assert load(tokenizer, write(tmp_path, "x.jsonl", alpaca)).style.name == "alpaca"
    assert load(tokenizer, write(tmp_path, "x.jsonl", [*alpaca, *answered(1)])).style.name == "plain"
    assert load(tokenizer, write(tmp_path, "x.jsonl", alpaca), prompt_style="phi-2").style.name == "phi-2"
    own = tokenizer.with_chat_template("{% for m in messages %}{{ m.content }};{% endfor %}")
    made = load(own, write(tmp_path, "x.jsonl", alpaca))
    assert (made.style.own, shown(made, made.train)) == (True, ["q;[[a;]]"])


def test_samples_come_back_as_they_went_in() -> None:
    given = [Sample(ids=[1, 2, 3], weights=[1.0, 0.5, 0.0]), Sample(ids=[7, 2**31 - 1], weights=[0.0, 1.0])]
    held = Samples([("a:1", given[0]), ("b:2", given[1])])
    assert list(held) == given
    assert (held[-1], held[0:1], held.lengths) == (given[1], given[:1], [2, 1])
    assert (held.tokens, held.trained_tokens) == (5, 2)
    with pytest.raises(IndexError):
        held[2]
    other = Samples([("c:9", given[0]), ("d:9", Sample(ids=given[1].ids, weights=[0.0, 0.5]))])
    assert held.fingerprint() == Samples(zip("xy", given, strict=True)).fingerprint() != other.fingerprint()
    assert (len(Samples([])), Samples([]).lengths, Samples([]).trained_tokens) == (0, [], 0)


def test_settings_are_checked() -> None:
    for options in ({"val_split_fraction": 1.0}, {"on_bad_row": "keep"}, {"ignore_index": 0}):
        with pytest.raises(ValueError, match=f"data.{next(iter(options))} is"):
            DataSettings(**options)
    with pytest.raises(DataError, match="there is no data"):
        load_data(DataSettings(), None, vocab_size=1)  # type: ignore[arg-type]


def test_real_rows_through_a_real_tokenizer(tmp_path: Path) -> None:
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set: the folder of real rows and tokenizers")
    data = Path(os.environ["LLM_TEST_DATA"])
    tokenizer = Tokenizer.load(data / "tokenizers/phi3")
    made = load_data(JSON(str(data / "instruct/instruction-data.json")), tokenizer, vocab_size=32064)
    assert (made.report.read, made.report.kept, len(made.val)) == (1100, 1100, 55)
    row = json.loads((data / "instruct/instruction-data.json").read_text())[0]
    asked = f"{row['instruction']}\n\n{row['input']}"
    prompt = tokenizer.encode_chat([{"role": "user", "content": asked}])
    assert made.train.where[0] == "instruction-data.json:2"
    assert made.train[0].ids[: len(prompt)] == prompt
    assert made.train[0].weights == [0.0] * len(prompt) + [1.0] * (len(made.train[0].ids) - len(prompt))
    order = Order(made.train.lengths, seed=0, rows_per_step=8, epochs=1, packing=True, max_seq_length=1024)
    batches = [pack([made.train[i] for row in order.step(step) for i in row]) for step in range(order.steps or 0)]
    assert sum(batch.trained for batch in batches) == made.train.trained_tokens
