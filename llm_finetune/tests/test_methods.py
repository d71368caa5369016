"""The seam for other methods: what trains, what a checkpoint holds, what the result is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_finetune import Method, ResumeError, Sample, Train, finetune, full, state

ROWS = [Sample(ids=[n, n + 1, n + 2, n + 3], weights=[0, 1, 1, 1]) for n in range(12)]
PAIRS = [(row, Sample(ids=row.ids[::-1], weights=row.weights)) for row in ROWS]
TRAIN = Train(epochs=2, global_batch_size=4, learning_rate=1e-2)


class Shifted(nn.Module):
    """A frozen layer with a trained vector added to what it gives."""

    def __init__(self, base: nn.Module, size: int) -> None:
        super().__init__()
        self.base, self.shift, self.active = base, nn.Parameter(torch.zeros(size)), True

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.shift if self.active else self.base(x)


def _prepare(model: Any) -> None:
    model.requires_grad_(False)
    for block in model.mid.values():
        block.mlp.down = Shifted(block.mlp.down, model.config.dim)


def _finish(model: Any, folder: Path, tokenizer: Any) -> None:
    folder.mkdir()
    shifts = {name: each.detach() for name, each in model.named_parameters() if name.endswith("shift")}
    save_file(shifts, folder / "shifts.safetensors")


def _reference(model: Any) -> Any:
    @contextmanager
    def off(trained: Any) -> Iterator[Any]:
        layers = [each for each in trained.modules() if isinstance(each, Shifted)]
        for layer in layers:
            layer.active = False
        try:
            yield trained
        finally:
            for layer in layers:
                layer.active = True

    return off


SHIFTS = Method(name="shifts", prepare=_prepare, finish=_finish, reference=_reference)


def test_only_what_a_method_leaves_trainable_trains_and_is_kept(make_model: Any, tmp_path: Path) -> None:
    model = make_model()
    run = finetune(model, ROWS, method=SHIFTS, out_dir=tmp_path, train=TRAIN)
    assert run.checkpoint is not None
    kept = load_file(run.checkpoint / "trained.safetensors")
    assert set(kept) == {"mid.0.mlp.down.shift", "mid.1.mlp.down.shift"}
    assert all(each.any() for each in kept.values())
    for name, parameter in make_model().named_parameters():
        trained = dict(model.named_parameters())
        assert torch.equal(trained.get(name, trained.get(name.replace("down.", "down.base."))), parameter)
    assert set(load_file(tmp_path / "final" / "shifts.safetensors")) == set(kept)


def test_it_goes_on_to_the_bit_and_not_on_another_base(make_model: Any, tmp_path: Path) -> None:
    whole = finetune(make_model(), ROWS, method=SHIFTS, train=TRAIN)
    left = iter(range(2))
    options: dict[str, Any] = {"method": SHIFTS, "train": TRAIN, "out_dir": tmp_path}
    finetune(make_model(), ROWS, **options, stop=lambda: next(left, None) is None)
    other = make_model()
    with torch.no_grad():
        other.begin.embed.weight.mul_(1.5)
    with pytest.raises(ResumeError, match="was trained on another base model"):
        finetune(other, ROWS, **options, resume=True)
    with pytest.raises(ResumeError, match="was trained by the method shifts, not full"):
        finetune(make_model(), ROWS, **options | {"method": full()}, resume=True)
    resumed = finetune(make_model(), ROWS, **options, resume=True)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_the_reference_of_preferences_is_the_model_with_the_method_off(make_model: Any) -> None:
    """As with a frozen copy: a run whose reference is one has the same losses."""
    by_copy = Method(name="shifts", prepare=_prepare, finish=_finish, reference=full().reference)
    runs = [finetune(make_model(), PAIRS, method=method, train=TRAIN) for method in (SHIFTS, by_copy)]
    losses = [[row["loss"] for row in run.history] for run in runs]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] == pytest.approx(0.6931472, rel=1e-6)


def test_factors_of_the_learning_rate_reach_the_optimizer(make_model: Any) -> None:
    still = Method(
        name="shifts",
        prepare=_prepare,
        finish=_finish,
        reference=_reference,
        rates=lambda model: {"mid.0.mlp.down.shift": 0.0},
    )
    model = make_model()
    finetune(model, ROWS, method=still, train=TRAIN)
    assert not model.mid["0"].mlp.down.shift.any()
    assert model.mid["1"].mlp.down.shift.any()


def test_a_method_that_leaves_nothing_to_train_is_refused(make_model: Any) -> None:
    nothing = Method(name="none", prepare=lambda model: None, finish=_finish, reference=_reference)
    with pytest.raises(ValueError, match="nothing is trained"):
        finetune(make_model(), ROWS, method=nothing)


def test_a_quantized_model_is_not_finetuned_in_full(make_model: Any) -> None:
    import llm_quant

    with pytest.raises(ValueError, match="load the unquantized checkpoint"):
        finetune(llm_quant.quantize(make_model(), "int8"), ROWS)


@pytest.mark.parametrize(("options", "changed"), [({"layers": "1-2"}, {"1"}), ({"frozen": "1-2"}, {"0"})])
def test_some_layers_train_and_the_result_is_the_whole_model(
    make_model: Any, tmp_path: Path, options: dict[str, str], changed: set[str]
) -> None:
    model, before = make_model(), dict(make_model().named_parameters())
    finetune(model, ROWS, method=full(**options), out_dir=tmp_path, train=TRAIN)
    differ = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert {name.split(".")[1] for name in differ if name.startswith("mid.")} == changed
    assert any(not name.startswith("mid.") for name in differ) == ("frozen" in options)
    assert (tmp_path / "final" / "model.safetensors").exists()


def test_layers_that_train_and_those_that_do_not_are_not_both_chosen() -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        full(layers="0-1", frozen="1-2")


def test_newest_of_a_folder_without_checkpoints_is_none(tmp_path: Path) -> None:
    assert state.newest(tmp_path) is None
    assert state.newest(tmp_path / "absent") is None
