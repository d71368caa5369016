"""A run that stopped goes on exactly: the same rows, losses equal to the bit, whatever ended it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_finetune import Eval, OptimizerSettings, ResumeError, Rows, Settings, Train, finetune, state

TRAIN = Train(epochs=3, global_batch_size=4, micro_batch_size=2, save_interval=3, max_norm=1.0)
EVAL = Eval(interval=4)


def _settings(name: Any = "AdamW", **train: Any) -> Settings:
    return Settings(train=Train(**(vars(TRAIN) | train)), eval=EVAL, optimizer=OptimizerSettings(name=name))


def _after(steps: int) -> Any:
    """A function to stop a run by: true after so many steps."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def _numbers(run: Any) -> list[dict[str, float]]:
    """The history without times."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]


def _bytes(model: Any) -> list[bytes]:
    return [each.detach().view(torch.uint8).numpy().tobytes() for each in model.parameters()]


@pytest.fixture
def rows(make_samples: Any) -> Rows:
    return Rows(train=make_samples(14), val=make_samples(5, seed=1))


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU", UserWarning)
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Muon", "AdamW8bit", "PagedAdamW8bit"])
@pytest.mark.parametrize("steps", [1, 6, 8])
def test_what_was_stopped_goes_on_to_the_bit(
    make_model: Any, rows: Rows, tmp_path: Path, name: str, steps: int, dtype: torch.dtype
) -> None:
    models = [make_model(dtype=dtype) for _ in range(3)]
    whole = finetune(models[0], rows, settings=_settings(name), out_dir=tmp_path / "whole")
    stopped = finetune(models[1], rows, settings=_settings(name), out_dir=tmp_path / "parts", stop=_after(steps))
    assert (stopped.interrupted, stopped.step, stopped.final) == (True, steps, None)
    resumed = finetune(models[2], rows, settings=_settings(name), out_dir=tmp_path / "parts", resume=True)
    assert _numbers(resumed) == _numbers(whole)
    assert _bytes(models[2]) == _bytes(models[0])
    for file in ("final/model.safetensors", "step-000011/trained.safetensors", "step-000011/optimizer.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_a_finished_run_is_left_as_it_is(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    first = finetune(make_model(), rows, settings=_settings(), out_dir=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))}
    again = finetune(make_model(), rows, settings=_settings(), out_dir=tmp_path, resume="auto")
    assert (again.final, again.step, _numbers(again)) == (first.final, first.step, _numbers(first))
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.safetensors"))} == before


def test_dropout_drops_the_same_after_resuming(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    """The caller's own random numbers neither matter nor are disturbed."""

    def model() -> Any:
        made = make_model()
        made.mid["0"].mlp.down = torch.nn.Sequential(torch.nn.Dropout(0.5), made.mid["0"].mlp.down)
        return made

    settings = _settings(max_steps=6)
    torch.manual_seed(1)
    whole = finetune(model(), rows, settings=settings)
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(()), drawn)
    torch.manual_seed(2)
    finetune(model(), rows, settings=settings, out_dir=tmp_path, stop=_after(2))
    # the folder of the result can't be written of a model with a foreign layer
    again = finetune(
        model(), rows, settings=settings, out_dir=tmp_path, resume=True, stop=lambda: False, method=_bare()
    )
    assert _numbers(again) == _numbers(whole)


def _bare() -> Any:
    from dataclasses import replace

    from llm_finetune import full

    return replace(full(), finish=lambda model, folder, tokenizer: folder.mkdir())


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "settings": ({"settings": _settings(learning_rate=1e-3)}, r"train\.learning_rate, which was 0\.0003 and is 0\.001"),
    "seed": ({"settings": Settings(train=TRAIN, eval=EVAL, seed=3)}, "seed, which was 1337 and is 3"),
    "optimizer": ({"settings": _settings("Muon")}, r"optimizer\.name, which was AdamW and is Muon"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_refused(make_model: Any, rows: Rows, tmp_path: Path, change: str) -> None:
    finetune(make_model(), rows, settings=_settings(), out_dir=tmp_path, stop=_after(2))
    options, rule = CHANGES[change]
    with pytest.raises(ResumeError, match=rule):
        finetune(make_model(), rows, out_dir=tmp_path, resume=True, **options)


def test_other_data_and_models_are_refused_and_longer_runs_are_not(
    make_model: Any, make_samples: Any, rows: Rows, tmp_path: Path
) -> None:
    finetune(make_model(), rows, settings=_settings(), out_dir=tmp_path, stop=_after(2))
    options: dict[str, Any] = {"settings": _settings(), "out_dir": tmp_path, "resume": True}
    with pytest.raises(ResumeError, match="the rows have changed"):
        finetune(make_model(), Rows(train=make_samples(13), val=rows.val), **options)
    with pytest.raises(ResumeError, match="other parameters train here than there"):
        finetune(make_model(num_layers=3), rows, **options)
    longer = _settings(epochs=4, micro_batch_size=4, save_interval=2)
    assert finetune(make_model(), rows, **options | {"settings": longer}).step == 14


def test_checkpoints_that_are_damaged_are_passed_over_or_named(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": _settings(keep=9), "out_dir": tmp_path}
    finetune(make_model(), rows, **options, stop=_after(7))
    last = state.newest(tmp_path)
    assert last == tmp_path / "step-000007"
    weights = bytearray((last / "trained.safetensors").read_bytes())
    weights[-1] ^= 1
    (last / "trained.safetensors").write_bytes(weights)
    with pytest.raises(ResumeError, match=r"trained\.safetensors: damaged"):
        finetune(make_model(), rows, **options, resume=True)
    (last / "trained.safetensors").write_bytes(weights[:-1])
    assert state.newest(tmp_path) == tmp_path / "step-000006"
    (tmp_path / "step-000006" / "state.json").write_text("{")
    assert state.newest(tmp_path) == tmp_path / "step-000004"
    assert finetune(make_model(), rows, **options, resume=True).step == 11
    assert state.newest(tmp_path) == tmp_path / "step-000011"


def test_the_newest_and_the_best_are_kept(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    settings = _settings(keep=2, save_interval=1, learning_rate=0.5)
    run = finetune(make_model(), rows, settings=settings, out_dir=tmp_path)
    validated = {row["step"]: row["val_loss"] for row in run.history if "val_loss" in row}
    best = min(validated, key=lambda step: validated[step])
    assert {path.name for path in state.checkpoints(tmp_path)} == {"step-000010", "step-000011", f"step-{best:06d}"}


def test_a_filled_folder_is_not_overwritten(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty, and nothing is overwritten"):
        finetune(make_model(), rows, out_dir=tmp_path)
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        finetune(make_model(), rows, out_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume needs out_dir"):
        finetune(make_model(), rows, resume=True)
    assert finetune(make_model(), rows, settings=_settings(max_steps=1), out_dir=tmp_path, resume="auto").step == 1
    with pytest.raises(ValueError, match="final is there already"):
        finetune(make_model(), rows, settings=_settings(), out_dir=tmp_path, resume="auto")


def test_a_checkpoint_before_others_is_refused(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": _settings(keep=9), "out_dir": tmp_path}
    finetune(make_model(), rows, **options, stop=_after(7))
    with pytest.raises(ValueError, match="step-000003 is followed by step-000007"):
        finetune(make_model(), rows, **options, resume=tmp_path / "step-000003")
    branch = finetune(make_model(), rows, **options | {"out_dir": tmp_path / "b"}, resume=tmp_path / "step-000003")
    assert branch.step == 11


def test_state_json_says_what_the_run_is(make_model: Any, rows: Rows, tmp_path: Path) -> None:
    run = finetune(make_model(), rows, settings=_settings(), out_dir=tmp_path)
    assert run.checkpoint is not None
    found = json.loads((run.checkpoint / "state.json").read_text())
    assert found["method"] == "full"
    assert found["progress"]["step"] == run.step == 11
    assert found["settings"]["train"]["epochs"] == 3
    assert set(found["files"]) == {"trained.safetensors", "optimizer.safetensors"}
