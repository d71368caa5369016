"""The whole loop: it learns, tells of it, stops where it should, and leaves a folder that loads."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_finetune import Eval, Event, OptimizerSettings, Rows, Sample, Train, finetune

FAST = Train(epochs=20, global_batch_size=4, learning_rate=1e-2, lr_warmup_steps=5)


def _counting(count: int, start: int = 0) -> list[Sample]:
    """Rows that count upwards, which a model learns quickly: each id follows from the one before."""
    rows = [[(start + 7 * n + i) % 61 for i in range(12)] for n in range(count)]
    return [Sample(ids=ids, weights=[0.0] * 3 + [1.0] * 9) for ids in rows]


def test_held_out_rows_are_learnt_and_the_result_is_a_folder_that_loads(make_model: Any, tmp_path: Path) -> None:
    model, events, ids = make_model(), [], torch.tensor([[3, 4, 5]])
    rows = Rows(train=_counting(24), val=_counting(5, start=3))
    evaluation = Eval(interval=10, initial_validation=True)
    run = finetune(model, rows, out_dir=tmp_path / "out", train=FAST, eval=evaluation, on_event=events.append)
    validated = [row["val_loss"] for row in run.history if "val_loss" in row]
    assert validated[0] == pytest.approx(math.log(61), abs=0.5)
    assert validated[-1] == run.val_loss < 0.3
    assert run.final == tmp_path / "out" / "final"
    loaded = llm_blocks.load(run.final)
    assert torch.equal(loaded(ids), model(ids))
    assert not model.training
    assert not any(each.requires_grad or each.grad is not None for each in model.parameters())
    assert [event.kind for event in events if event.kind != "step"] == [
        "start",
        *["eval"] * 1,
        *_saved_when_better(run),
        "save",
        "end",
    ]


def _saved_when_better(run: Any) -> list[str]:
    """The events of the evaluations after the first: each that is better than all before is saved at once."""
    losses = [row["val_loss"] for row in run.history if "val_loss" in row]
    kinds = []
    for number in range(1, len(losses)):
        kinds += ["eval", "save"] if losses[number] < min(losses[:number]) else ["eval"]
    return kinds


def test_events_carry_the_numbers_of_metrics_csv(make_model: Any, tmp_path: Path) -> None:
    events: list[Event] = []
    train = Train(epochs=1, max_steps=3, global_batch_size=4)
    run = finetune(make_model(), _counting(24), out_dir=tmp_path, train=train, on_event=events.append)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,epoch,loss,val_loss,learning_rate,norm,tokens,trained_tokens,seconds"
    steps = [event.values for event in events if event.kind == "step"]
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert [float(line.split(",")[2]) for line in lines[1:]] == [row["loss"] for row in steps]
    assert steps[-1]["tokens"] == 3 * 4 * 11
    assert steps[-1]["trained_tokens"] == 3 * 4 * 9
    assert run.train_loss == steps[-1]["loss"]
    assert all(row["tokens_per_second"] > 0 for row in steps)
    start = events[0].values
    assert (start["steps"], start["rows"], start["tokens"], start["processes"]) == (3, 24, 0, 1)
    taken = sum(4 * 11 / row["tokens_per_second"] for row in steps)
    assert 0 < taken <= steps[-1]["seconds"] + 0.01


def test_validation_is_weighted_by_tokens(make_model: Any) -> None:
    """A row with one trained token counts a ninth of one with nine, in whatever micro-batches they come."""
    short = Sample(ids=[5, 40, 6], weights=[0, 0, 1])
    rows = [*_counting(3), short]
    losses = []
    for micro in (1, 2, 4):
        train = Train(epochs=1, max_steps=1, micro_batch_size=micro, learning_rate=0.0, min_lr=0.0)
        losses.append(finetune(make_model(), Rows(train=rows, val=rows), train=train).val_loss)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    model, total = make_model(), 0.0
    for row in rows:
        logits = model(torch.tensor([row.ids[:-1]]))[0].log_softmax(-1)
        picked = logits[torch.arange(len(row.ids) - 1), torch.tensor(row.ids[1:])]
        total -= float((picked * torch.tensor(row.weights[1:])).sum())
    assert losses[0] == pytest.approx(total / 28, rel=1e-5)


def test_patience_ends_the_run_with_the_best_weights(make_model: Any, tmp_path: Path) -> None:
    """Rows that contradict the validation rows make those worse from some evaluation on."""
    against = [Sample(ids=list(reversed(row.ids)), weights=row.weights) for row in _counting(24)]
    rows = Rows(train=against, val=_counting(5))
    train = Train(epochs=40, global_batch_size=4, learning_rate=3e-3, lr_warmup_steps=1, patience=2)
    model = make_model()
    run = finetune(model, rows, out_dir=tmp_path, train=train, eval=Eval(interval=1))
    losses = [row["val_loss"] for row in run.history]
    assert run.step < 240
    assert min(losses[-2:]) >= min(losses[:-2])
    assert run.final is not None
    ids = torch.tensor([_counting(1)[0].ids])
    best = tmp_path / f"step-{losses.index(min(losses)) + 1:06d}"
    from safetensors.torch import load_file

    assert torch.equal(load_file(best / "trained.safetensors")["end.head.weight"], model.end.head.weight)
    assert torch.equal(llm_blocks.load(run.final)(ids), model(ids))


def test_max_time_ends_the_run_after_the_step_that_passes_it(make_model: Any, tmp_path: Path) -> None:
    run = finetune(make_model(), _counting(24), out_dir=tmp_path, train=Train(max_time=0.0, epochs=2))
    assert run.step == 1
    assert run.final is not None


def test_steps_without_trained_tokens_change_nothing(make_model: Any) -> None:
    model, untrained = make_model(), [Sample(ids=[1, 2, 3], weights=[0, 0, 0])] * 4
    run = finetune(model, untrained, train=Train(epochs=2, global_batch_size=4))
    assert run.step == 2
    assert run.train_loss is None
    assert torch.equal(model.end.head.weight, make_model().end.head.weight)


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(make_model: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train": Train(epochs=2, learning_rate=1e30, global_batch_size=4, save_interval=1)}
    settings |= {"optimizer": OptimizerSettings(name="SGD")}
    with pytest.raises(ValueError, match=r"step 2 has the loss .*rows are \[.*last checkpoint is .*step-000001"):
        finetune(make_model(), _counting(24), out_dir=tmp_path, **settings)


def test_a_tied_head_trains_as_the_one_parameter_that_it_is(make_model: Any, tmp_path: Path) -> None:
    model = make_model(tie_embeddings=True)
    run = finetune(model, _counting(24), out_dir=tmp_path, train=FAST)
    assert model.end.head.weight is model.begin.embed.weight
    assert run.train_loss is not None
    assert run.train_loss < 1.0
    assert run.final is not None
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(llm_blocks.load(run.final)(ids), model(ids))


def test_long_rows_are_cut_to_max_seq_length(make_model: Any) -> None:
    run = finetune(make_model(), _counting(8), train=Train(epochs=1, global_batch_size=8, max_seq_length=6))
    assert run.history[-1]["tokens"] == 8 * 5


def _pair(good: Sample) -> tuple[Sample, Sample]:
    """A row that counts, and another answer to its beginning."""
    ids = [*good.ids[:3], *((5 * i) % 61 for i in good.ids[3:])]
    return good, Sample(ids=ids, weights=good.weights)


PAIRS = [_pair(good) for good in _counting(16)]


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
@pytest.mark.parametrize("micro", [1, 4])
def test_preferences_are_learnt(make_model: Any, objective: Any, micro: int) -> None:
    """DPO begins at log 2, where the model is its own reference, and both fall."""
    train = Train(epochs=8, global_batch_size=4, micro_batch_size=micro, learning_rate=3e-3, lr_warmup_steps=2)
    run = finetune(make_model(), Rows(train=PAIRS, val=PAIRS[:4]), train=train, objective=objective)
    losses = [row["loss"] for row in run.history]
    if objective == "dpo":
        assert losses[0] == pytest.approx(math.log(2), rel=1e-5)
    assert losses[-1] < losses[0] / 2
    assert run.val_loss is not None
    assert run.val_loss < losses[0] / 2


def test_pairs_are_dpos_by_themselves_and_nothing_else_goes_with_them(make_model: Any) -> None:
    run = finetune(make_model(), PAIRS, train=Train(epochs=1, max_steps=1))
    assert run.history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    with pytest.raises(ValueError, match="objective sft learns from single samples, which these rows are not"):
        finetune(make_model(), PAIRS, objective="sft")
    with pytest.raises(ValueError, match="objective orpo learns from pairs"):
        finetune(make_model(), _counting(4), objective="orpo")
    with pytest.raises(ValueError, match="some rows are pairs and others single samples"):
        finetune(make_model(), [PAIRS[0], *_counting(3)], train=Train(epochs=1))
