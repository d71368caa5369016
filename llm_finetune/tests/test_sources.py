"""Named sets: their rows, made by hand in the form of the real ones, become samples; files are found and kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm_finetune import SOURCES, DataSettings, TextFiles, hub_data, load_data, sources
from llm_finetune.dataset import Dataset
from llm_finetune.hub_data import choose
from llm_finetune.rows import DataError
from llm_finetune.sources import Source, find_source, locate
from llm_tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes, <s> 256, </s> 257, without a chat template."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return Tokenizer.load(folder)


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[Any]]:
    """Rows by the address or the hub's file that they are at; what isn't there can't be had."""
    rows: dict[str, list[Any]] = {}

    def download(url: str, target: Path) -> Path:
        if url not in rows:
            raise DataError(f"{url}: could not be downloaded; --data FILE")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(rows[url]) if url.endswith(".json") else lines(rows[url]))
        return target

    def fetch(repo_id: str, folder: Path, token: str | None, **options: Any) -> Path:
        folder.mkdir(parents=True)
        for name in choose([each.partition(":")[2] for each in rows if each.startswith(repo_id)], repo_id, **options):
            (folder / name).write_text(lines(rows[f"{repo_id}:{name}"]))
        return folder

    monkeypatch.setattr(sources, "download", download)
    monkeypatch.setattr(hub_data, "fetch", fetch)
    monkeypatch.chdir(tmp_path)
    return rows


def load(tokenizer: Tokenizer, **settings: Any) -> Dataset:
    return load_data(DataSettings(**settings), tokenizer, vocab_size=258)


def texts(made: Dataset, tokenizer: Tokenizer, part: str = "train") -> list[str]:
    return [tokenizer.decode(sample.ids) for sample in getattr(made, part)]


def test_alpaca_holds_back_its_share_and_trains_on_all(tokenizer: Tokenizer, served: dict[str, list[Any]]) -> None:
    rows = [{"instruction": f"Say {i}.", "input": "", "output": str(i)} for i in range(99)]
    address = f"{SOURCES['Alpaca'].url}alpaca_data_cleaned_archive.json"
    served[address] = [*rows, {"instruction": "Say nothing.", "input": "", "output": ""}]
    made = load(tokenizer, name="alpaca")
    assert (made.train.rows, made.val.rows) == (95, 4)
    assert (made.report.read, dict(made.report.dropped)) == (100, {"'output' is empty": 1})
    assert made.style.name == "alpaca"
    assert made.train.trained_tokens == made.train.tokens - made.train.rows  # all but the first of each sample
    assert Path("data/alpaca/alpaca_data_cleaned_archive.json").exists()
    masked = load(tokenizer, name="Alpaca", mask_prompt=True, val_split_fraction=0)
    assert masked.train.trained_tokens < 5 * masked.train.rows


def test_longform_and_flan_have_rows_to_validate_on(tokenizer: Tokenizer, served: dict[str, list[Any]]) -> None:
    longform, flan = SOURCES["LongForm"], SOURCES["FLAN"]
    served[f"{longform.url}train.json"] = [{"input": "Write.", "output": "Text.", "source": "x", "subset": "y"}]
    served[f"{longform.url}val.json"] = [{"input": "Write on.", "output": "More.", "source": "x", "subset": "y"}]
    made = load(tokenizer, name="LongForm")
    assert "Write.\n" in texts(made, tokenizer)[0]
    assert "Write on.\n" in texts(made, tokenizer, "val")[0]
    assert made.style.name == "longform"
    for split in ("train", "test"):
        served[f"{flan.url}{split}/cb_10templates_{split}.jsonl"] = [{"inputs": f"Is {split}?", "targets": "Yes"}]
    made = load(tokenizer, name="FLAN", subsets="cb_10templates")
    assert "Is train?" in texts(made, tokenizer)[0]
    assert "Is test?" in texts(made, tokenizer, "val")[0]
    with pytest.raises(DataError, match=r"--data FILE"):
        load(tokenizer, name="FLAN", subsets="rte_10templates")
    with pytest.raises(DataError, match=r"no subset 'cb'; did you mean"):
        load(tokenizer, name="FLAN", subsets="cb")


@pytest.mark.parametrize("multiturn", [False, True])
def test_lima_and_deita_by_turns(tokenizer: Tokenizer, served: dict[str, list[Any]], multiturn: bool) -> None:
    served["GAIR/lima:train.jsonl"] = [{"conversations": ["Hi?", "Hello.", "Bye?", "Ciao."], "source": "x"}] * 2
    served["GAIR/lima:train.jsonl"].append({"conversations": ["No answer?"], "source": "x"})
    served["GAIR/lima:test.jsonl"] = [{"conversations": ["Q"], "source": "x"}]
    made = load(tokenizer, name="LIMA", include_multiturn_conversations=multiturn, val_split_fraction=0)
    assert ["Ciao." in text for text in texts(made, tokenizer)] == [multiturn] * 2
    assert made.report.dropped == {"no assistant turn": 1}
    messages = [{"role": role, "content": f"{role} {i}"} for i in range(2) for role in ("user", "assistant")]
    for split in ("train_sft", "test_sft", "train_gen"):
        served[f"HuggingFaceH4/deita-10k-v0-sft:{split}.jsonl"] = [{"messages": messages, "prompt_id": split}]
    made = load(tokenizer, name="Deita", include_multiturn_conversations=multiturn)
    assert (made.train.rows, made.val.rows) == (1, 1)
    assert ("assistant 1" in texts(made, tokenizer)[0]) == multiturn


@pytest.mark.parametrize("name", ["Dolly", "databricks/databricks-dolly-15k"])
def test_dolly_by_either_name(tokenizer: Tokenizer, served: dict[str, list[Any]], name: str) -> None:
    row = {"instruction": "Where?", "context": "It is here.", "response": "Here.", "category": "closed_qa"}
    served["databricks/databricks-dolly-15k:databricks-dolly-15k.jsonl"] = [row, row]
    made = load(tokenizer, name=name)
    assert "It is here." in texts(made, tokenizer)[0]


def test_a_set_of_the_hub_is_read_as_files_are(tokenizer: Tokenizer, served: dict[str, list[Any]]) -> None:
    served["some/one:train.jsonl"] = [{"question": "q", "answer": "a"}]
    served["some/one:validation.jsonl"] = [{"question": "v", "answer": "w"}]
    made = load(tokenizer, name="some/one", download_dir="here")
    assert (made.train.rows, made.val.rows) == (1, 1)
    assert made.train.trained_tokens < made.train.tokens - 1  # the answer's alone, as of any file
    assert Path("here/some--one/train.jsonl").exists()


def test_a_path_may_be_the_name(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").write_text(lines([{"text": "one"}, {"text": "two"}]))
    made = load(tokenizer, name=str(tmp_path / "my.jsonl"))
    assert (made.train.rows, made.val.rows) == (1, 1)
    (tmp_path / "a.txt").write_text("train")
    (tmp_path / "b.txt").write_text("validate")
    found = TextFiles(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    made = load_data(found, tokenizer, vocab_size=258)
    assert (made.train.rows, made.val.rows) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is no data"),
        ({"name": "Alpac"}, "did you mean Alpaca"),
        ({"name": "nothing like it"}, "the known sets are Alpaca, "),
        ({"name": "LIMA", "url": "https://example.org/"}, r"data\.repo_id says where"),
        ({"name": "Alpaca", "repo_id": "a/b"}, r"data\.url says where"),
        ({"name": "Alpaca", "subsets": "x"}, "has no subsets"),
        ({"name": "Alpaca", "url": "http://example.org/"}, "https:// addresses alone"),
    ],
)
def test_settings_that_name_nothing(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        locate(DataSettings(download_dir=str(tmp_path), **settings))


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(DataSettings(name="LIMA", access_token="secret"))


def test_the_files_that_are_chosen_of_a_repository() -> None:
    names = [
        "README.md",
        "train.csv",
        "data/train-0.parquet",
        "data/test-0.parquet",
        "dataset_infos.json",
        ".x/a.parquet",
    ]
    assert choose(names, "a/b") == ["data/train-0.parquet"]
    assert choose(["x.json", "../train.json", "/train.json"], "a/b") == ["x.json"]
    several = ["main/train.parquet", "other/train.parquet", "other/val.parquet"]
    with pytest.raises(DataError, match=r"several sets; .*--data\.subsets main,other"):
        choose(several, "a/b")
    assert choose(several, "a/b", subsets="other") == several[1:]
    with pytest.raises(DataError, match="no file of data among the subsets none"):
        choose(several, "a/b", subsets="none")
    with pytest.raises(DataError, match="no file of data"):
        choose(["test.parquet", "model.safetensors"], "a/b")


def test_the_table() -> None:
    assert list(SOURCES) == ["Alpaca", "Alpaca2k", "AlpacaGPT4", "LIMA", "Deita", "FLAN", "LongForm", "Dolly"]
    assert len(SOURCES["FLAN"].subsets) == 66
    for source in SOURCES.values():
        assert (source.url is None) != (source.repo_id is None)
        assert source.url is None or source.url.startswith("https://")
    assert isinstance(find_source("any/thing"), Source)
