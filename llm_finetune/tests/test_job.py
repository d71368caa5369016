"""A job: options by their dotted names, layers of them, and what is refused."""

from pathlib import Path
from typing import Any, get_args

import pytest

from llm_finetune import DataSettings, Job, Lora, OptimizerSettings, Settings, Train, make_job
from llm_finetune.data_names import SETS
from llm_finetune.job import MethodName
from llm_finetune.job_options import options, value
from llm_finetune.option_help import HELP


def test_each_option_has_its_sentence_and_its_place() -> None:
    assert set(HELP) == set(options())
    job = Job()
    assert all(value(job, option) == option.default for option in options().values())
    assert {"lora_r", "lora_layers", "train.epochs", "data.packing", "optimizer.name", "beta", "log.run"} <= set(HELP)


def test_options_go_where_they_belong() -> None:
    job = make_job({"lora_r": 4, "lora_key": "true", "train.max_tokens": "10_000_000", "seed": 3, "data": "x.jsonl"})
    train = Train(max_tokens=10_000_000)
    assert job == Job(
        lora=Lora(r=4, key=True), settings=Settings(train=train, seed=3), data=DataSettings(json_path="x.jsonl")
    )


def test_a_later_layer_counts_before_an_earlier_one() -> None:
    assert make_job({"lora_r": 8, "lora_alpha": 3}, {"lora_r": 4}).lora == Lora(r=4, alpha=3)


@pytest.mark.parametrize(
    ("below", "above", "name", "expected"),
    [
        ({"train.learning_rate": 1e-3}, {"optimizer.lr": 2e-3}, "train.learning_rate", 3e-4),
        ({"optimizer.lr": 2e-3}, {"train.learning_rate": 1e-3}, "optimizer.lr", None),
        ({"train.lr_warmup_steps": 10}, {"train.lr_warmup_fraction": 0.1}, "train.lr_warmup_steps", None),
        ({"data.mask_prompt": False}, {"data.loss": "last"}, "data.mask_prompt", None),
        ({"data.name": "Alpaca2k"}, {"data": "mine.json"}, "data.name", None),
        ({"data.name": "Alpaca2k"}, {"data.json_path": "mine.json"}, "data.name", None),
        ({"data": "mine.json", "data.val_path": "val.json"}, {"data": "LIMA"}, "data.val_path", None),
        ({"data": "mine.json"}, {"data": "LIMA"}, "data.json_path", None),
        ({"data": "mine.json", "data.packing": True}, {"data": "your.json"}, "data.packing", True),
        ({"data": "mine.json"}, {"data": "JSON"}, "data.json_path", "mine.json"),
    ],
)
def test_what_a_later_layer_says_in_another_way_replaces_the_earlier(
    below: Any, above: Any, name: str, expected: Any
) -> None:
    assert value(make_job(below, above), options()[name]) == expected


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"lora_rr": 4}, r"no setting lora_rr; did you mean lora_r\?"),
        ({"train.epoch": 4}, r"no setting train\.epoch; did you mean train\.epochs\?"),
        ({"epochs": 4}, r"did you mean train\.epochs\?"),
        ({"zebra": 4}, r"^there is no setting zebra$"),
        ({"train.epochs": 0}, r"^train\.epochs is 0, but must be at least 1$"),
        ({"train.epochs": "many"}, r"^train\.epochs can't be 'many': "),
        ({"lora_r": 0}, "the rank of LoRA is at least 1"),
        ({"quantize": "nf5"}, r"^quantize can't be 'nf5': input should be .*'bnb\.nf4'"),
        ({"devices": 0}, "devices is 0, but must be at least 1, or auto"),
        ({"devices": "many"}, r"^devices can't be 'many': [^;]*$"),
        ({"num_nodes": 0}, "num_nodes is 0"),
        ({"method": "full", "lora_r": 4}, "the lora_ options go with the method lora, not with full"),
        ({"method": "full", "quantize": "int8"}, "quantize goes with the method lora or adapter or adapter_v2"),
        ({"method": "lora", "freeze_layers": "0-1"}, "freeze_layers goes with the method full, not with lora"),
        ({"method": "full", "freeze_layers": "0-1", "train_layers": "0-1"}, "both say which layers train"),
        ({"data": "alpca"}, r"no data set of that name; did you mean Alpaca\?"),
        ({"data": "zzz"}, "the known data sets are Alpaca, "),
        ({"data": 3}, "data is the name of a data set, a file or a folder, not 3"),
    ],
)
def test_what_can_not_be_meant_is_refused_in_a_sentence(given: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make_job(given)


def test_a_method_that_the_settings_contradict_is_refused() -> None:
    with pytest.raises(ValueError, match="settings are of the method full, not lora"):
        make_job({"method": "full"}, method="lora")
    assert make_job({}, method="full") == Job(method="full")


@pytest.mark.parametrize("method", get_args(MethodName))
def test_each_method_has_a_folder_of_its_own(method: MethodName) -> None:
    assert Job(method=method).folder == f"out/finetune/{method.replace('_', '-')}"
    assert Job(method=method, out_dir="here").folder == "here"


@pytest.mark.parametrize("spelt", ["nf4", "bnb.nf4", "int8-training", "bnb.int8-training"])
def test_older_spellings_of_quantization(spelt: str) -> None:
    assert make_job({"quantize": spelt}).quantize == ("bnb.nf4" if "nf4" in spelt else "bnb.int8")


def test_a_word_for_the_data_is_a_set_a_file_a_folder_or_a_hub_id(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    for word in SETS:
        assert make_job({"data": word.lower()}).data == DataSettings(name=word)
    assert make_job({"data": "rows"}).data == DataSettings(json_path="rows")
    assert make_job({"data": "missing.jsonl"}).data == DataSettings(json_path="missing.jsonl")
    assert make_job({"data": "owner/name"}).data == DataSettings(name="owner/name")
    with pytest.raises(ValueError, match="no file or folder 'rows/none'"):
        make_job({"data": "rows/none"})


def test_null_leaves_an_option_that_needs_a_value_at_its_default() -> None:
    job = make_job({"train.epochs": None, "train.max_norm": None, "optimizer": None, "seed": None})
    assert job == Job()
    assert make_job({"optimizer": "SGD"}).settings.optimizer == OptimizerSettings(name="SGD")


@pytest.mark.parametrize(("given", "least"), [({}, 6e-5), ({"train.learning_rate": 1e-3}, 6e-5), ({"seed": 1}, 6e-5)])
def test_the_lowest_rate_is_the_usual_one(given: dict[str, Any], least: float) -> None:
    assert make_job(given).settings.train.min_lr == least


@pytest.mark.parametrize("name", ["train.learning_rate", "optimizer.lr"])
def test_the_lowest_rate_follows_a_low_one(name: str) -> None:
    assert make_job({name: "2e-5"}).settings.train.min_lr == pytest.approx(2e-6)
    assert make_job({name: 2e-5, "train.min_lr": 0}).settings.train.min_lr == 0
    with pytest.raises(ValueError, match=r"train\.min_lr 0\.001 is above the learning rate 2e-05"):
        make_job({name: 2e-5, "train.min_lr": 1e-3})
