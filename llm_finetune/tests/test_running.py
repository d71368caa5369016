"""From names to a run: a folder and a file for `finetune`, and a `Job` for `run_job`, on the model that ships."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
import llm_quant
from llm_finetune import (
    DataSettings,
    Eval,
    Event,
    Job,
    Lora,
    Settings,
    Train,
    base_of,
    finetune,
    full,
    is_adapter,
    load_adapter,
    load_base,
    read_settings,
    run_job,
)
from llm_tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "llm_cli" / "src" / "llm_cli" / "demo"
FEW = Settings(train=Train(max_steps=2, lr_warmup_steps=0, learning_rate=1e-3), eval=Eval(max_new_tokens=None))
pytestmark = pytest.mark.skipif(not DEMO.exists(), reason="the model ships with llm_cli")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i} and 1?", "completion": f"{i + 1}."}) + "\n" for i in range(30)))
    return path


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_folder_and_a_file_are_enough(tmp_path: Path, rows: Path) -> None:
    run = finetune(DEMO, str(rows), method="lora", out_dir=tmp_path / "a", settings=FEW)
    tokenizer, model = Tokenizer.load(DEMO), load_base(DEMO)
    again = finetune(
        model, DataSettings(json_path=str(rows)), tokenizer=tokenizer, lora=Lora(), out_dir=tmp_path / "b", settings=FEW
    )
    assert run.final is not None
    assert again.final is not None
    assert weights(run.final) == weights(again.final) != weights(DEMO)
    assert base_of(tmp_path / "a" / "adapter") == str(DEMO)


def test_what_names_no_rows_and_no_method_is_refused(rows: Path) -> None:
    model = load_base(DEMO)
    with pytest.raises(ValueError, match="needs the model's tokenizer: give tokenizer"):
        finetune(model, rows)
    with pytest.raises(ValueError, match="no data set of that name; did you mean Alpaca"):
        finetune(DEMO, "alpac")
    with pytest.raises(ValueError, match="method can't be 'lorra'"):
        finetune(DEMO, rows, method="lorra")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match='lora goes with method="lora"'):
        finetune(DEMO, rows, method=full(), lora=Lora())
    with pytest.raises(ValueError, match="the lora_ options go with the method lora"):
        finetune(DEMO, rows, method="full", lora=Lora(r=3))


def test_a_job_is_run_and_its_settings_are_beside_the_result(tmp_path: Path, rows: Path) -> None:
    events: list[Event] = []
    job = Job(out_dir=str(tmp_path / "o"), data=DataSettings(json_path=str(rows)), settings=FEW, lora=Lora(r=2))
    run = run_job(job, DEMO, base="org/name", on_event=events.append)
    assert run.final == tmp_path / "o" / "final"
    assert [event.kind for event in events[:2]] == ["data", "start"]
    assert str(events[0].values["report"]) == "30 rows read, 30 kept"
    assert read_settings(tmp_path / "o" / "settings.yaml") == job
    assert base_of(tmp_path / "o" / "adapter") == "org/name"
    with pytest.raises(ValueError, match="is not empty, and nothing is overwritten"):
        run_job(job, "no such folder")


def test_an_adapter_that_is_not_merged_is_the_result(tmp_path: Path, rows: Path) -> None:
    data = DataSettings(json_path=str(rows))
    merged = run_job(Job(out_dir=str(tmp_path / "m"), data=data, settings=FEW), DEMO)
    run = run_job(Job(out_dir=str(tmp_path / "o"), data=data, settings=FEW, merge=False), DEMO)
    assert run.final is not None
    assert merged.final is not None
    assert is_adapter(run.final)
    assert not (tmp_path / "o" / "adapter").exists()
    adapter = [
        path.read_bytes()
        for path in (run.final, tmp_path / "m" / "adapter")
        for path in [path / "adapter_model.safetensors"]
    ]
    assert adapter[0] == adapter[1]


@pytest.mark.parametrize("scheme", ["int8", "int4", "bnb.nf4"])
def test_a_rounded_base_gets_an_adapter(tmp_path: Path, rows: Path, scheme: Any) -> None:
    job = Job(out_dir=str(tmp_path / "o"), data=DataSettings(json_path=str(rows)), settings=FEW, quantize=scheme)
    run = run_job(job, DEMO)
    assert run.final is not None
    assert base_of(run.final) == str(DEMO)
    kinds = (llm_quant.QuantizedLinear, llm_quant.BnbLinear)
    model = load_adapter(load_base(DEMO, quantize=scheme), run.final)
    assert sum(isinstance(layer, kinds) for layer in model.modules()) > 0
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.equal(model(ids), load_base(DEMO, quantize=scheme)(ids))


@pytest.mark.parametrize(("options", "trained"), [({"freeze_layers": "0-2"}, "2-"), ({"train_layers": "1-2"}, "1")])
def test_some_layers_train_and_the_others_are_those_of_the_base(
    tmp_path: Path, rows: Path, options: dict[str, Any], trained: str
) -> None:
    job = Job(
        method="full", out_dir=str(tmp_path / "o"), data=DataSettings(json_path=str(rows)), settings=FEW, **options
    )
    final = run_job(job, DEMO).final
    assert final is not None
    before, after = llm_blocks.load(DEMO).mid, llm_blocks.load(final).mid
    same = {
        number: all(torch.equal(a, b) for a, b in zip(before[number].parameters(), block.parameters(), strict=True))
        for number, block in after.items()
    }
    changes = {"1"} if trained == "1" else set(same) - {"0", "1"}
    assert {number for number, equal in same.items() if not equal} == changes


def test_a_base_is_read_in_a_precision() -> None:
    assert next(load_base(DEMO, precision="32-true").parameters()).dtype == torch.float32
    stored = llm_blocks.load(DEMO)
    llm_quant.quantize(stored, "int8")
    rounded = load_base(DEMO, quantize="int8", precision="bf16-true")
    assert torch.equal(stored(torch.tensor([[1]])), rounded(torch.tensor([[1]])))


def test_full_finetuning_has_fp32_weights_and_a_result_as_its_base_is_stored(tmp_path: Path, rows: Path) -> None:
    job = Job(method="full", out_dir=str(tmp_path / "o"), data=DataSettings(json_path=str(rows)), settings=FEW)
    final = run_job(job, DEMO).final
    half = next(load_base(DEMO).parameters()).dtype == torch.bfloat16  # this machine is fast at it
    written = read_settings(tmp_path / "o" / "settings.yaml").settings.precision
    assert written == ("bf16-mixed" if half else None)
    assert final is not None
    assert next(llm_blocks.load(final).parameters()).dtype == torch.bfloat16  # as the base is stored
    exact = replace(job, out_dir=str(tmp_path / "e"), settings=replace(FEW, precision="32-true"))
    final = run_job(exact, DEMO).final
    assert final is not None
    assert next(llm_blocks.load(final).parameters()).dtype == torch.float32
