"""Each precision learns, is what it says, and goes on to the bit; the loss scale is torch's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import llm_blocks
from llm_finetune import Eval, Lora, OptimizerSettings, Rows, Sample, Train, finetune, full, stored_dtype, with_lora
from llm_finetune.precision import GROWTH_INTERVAL, LossScale, convert
from llm_finetune.state import Progress
from llm_quant import quantize

PRECISIONS: list[Any] = ["32-true", "bf16-true", "bf16-mixed", "16-true", "16-mixed"]
TRAIN = Train(epochs=3, global_batch_size=4, micro_batch_size=2, learning_rate=1e-2, lr_warmup_steps=2, max_norm=1.0)
EVAL = Eval(interval=4)


@pytest.fixture
def rows() -> Rows:
    """Rows that count by one or by two."""
    texts = [[(start + step * i) % 61 for i in range(12)] for step in (1, 2) for start in range(12)]
    samples = [Sample(ids=ids, weights=[0, 0, *[1] * 10]) for ids in texts]
    return Rows(train=samples[:20], val=samples[20:])


def _after(steps: int) -> Any:
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def _numbers(run: Any) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history]


def _method(name: str) -> Any:
    if name == "full":
        return full()
    return with_lora(Lora(r=4, alpha=8, dropout=0.1, mlp=True, dora=name == "dora"), base="tiny")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", ["full", "lora", "dora", "qlora"])
def test_it_learns_and_goes_on_to_the_bit(
    make_model: Any, rows: Rows, tmp_path: Path, precision: Any, method: str
) -> None:
    def run(folder: str, **more: Any) -> Any:
        model = make_model()
        if method == "qlora":
            quantize(model, "int4", group_size=16)
        options: dict[str, Any] = {"method": _method(method), "out_dir": tmp_path / folder, "train": TRAIN} | more
        return finetune(model, rows, precision=precision, eval=EVAL, **options)

    whole = run("whole")
    assert run("parts", stop=_after(6)).interrupted
    assert _numbers(run("parts", resume=True)) == _numbers(whole)
    for file in ("trained.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "whole/step-000015" / file).read_bytes() == (
            tmp_path / "parts/step-000015" / file
        ).read_bytes()
    assert whole.train_loss < whole.history[0]["loss"] - 0.3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_kept_in_its_dtype_and_adapters_in_fp32(
    make_model: Any, rows: Rows, tmp_path: Path, precision: Any
) -> None:
    for name, method in (("full", full()), ("lora", _method("lora"))):
        run = finetune(
            make_model(dtype=torch.bfloat16),
            rows,
            method=method,
            precision=precision,
            out_dir=tmp_path / name,
            train=TRAIN,
        )
        assert run.checkpoint is not None
        assert run.final is not None
        kept = {each.dtype for each in load_file(run.checkpoint / "trained.safetensors").values()}
        assert kept == {torch.float32 if name == "lora" else stored_dtype(precision)}
        assert llm_blocks.load(run.final).end.head.weight.dtype == stored_dtype(precision)


def test_without_one_the_model_has_its_own(make_model: Any, rows: Rows) -> None:
    model = make_model(dtype=torch.bfloat16)
    finetune(model, rows, train=TRAIN)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    assert stored_dtype(None) is None


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_mixed_multiplies_in_16_bits_and_is_near_fp32(make_model: Any, rows: Rows, precision: Any, dtype: Any) -> None:
    seen: list[torch.dtype] = []
    model = make_model()
    model.mid["0"].attention.q.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    mixed = finetune(model, rows, train=TRAIN, precision=precision, eval=EVAL)
    assert set(seen) == {dtype}
    plain = finetune(make_model(), rows, train=TRAIN, eval=EVAL)
    assert mixed.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-3)
    assert mixed.val_loss == pytest.approx(plain.val_loss, rel=0.05)


def test_mixed_learns_what_is_too_small_for_bf16(make_model: Any, rows: Rows) -> None:
    """A step of a ten-thousandth of a weight is lost in bf16's eight bits, and kept in its fp32 copy."""
    train = Train(epochs=1, max_steps=1, global_batch_size=4, learning_rate=1e-5, min_lr=0.0, lr_warmup_steps=0)
    sgd = OptimizerSettings(name="SGD", weight_decay=0.0)
    moved: dict[Any, bool] = {}
    for precision in ("bf16-true", "bf16-mixed"):
        model = make_model(dtype=torch.bfloat16)
        model.end.norm.weight.fill_(1.0)
        before = model.end.norm.weight.float().clone()
        finetune(model, rows, train=train, precision=precision, optimizer=sgd)
        moved[precision] = not torch.equal(before, model.end.norm.weight.float())
    assert moved == {"bf16-true": False, "bf16-mixed": True}


def test_the_reference_of_preferences_leaves_gradients_where_they_are(make_model: Any, rows: Rows) -> None:
    """What autocast would keep of the pass without gradients must not serve the pass with them."""
    pairs: Any = list(zip(rows.train[:8], rows.train[8:16], strict=True))
    for method in (full(), _method("lora")):
        run = finetune(make_model(), pairs, method=method, train=TRAIN, precision="bf16-mixed")
        assert run.train_loss is not None
        assert run.history[0]["norm"] > 0
        assert run.train_loss < 0.6


def test_numbers_of_quantized_layers_and_exact_parameters_stay(make_model: Any) -> None:
    model: Any = quantize(make_model(), "int8")
    model.exact = ("mid.0.attention_norm.weight",)
    buffers = {name: each.clone() for name, each in model.named_buffers()}
    convert(model, "bf16-true")
    for name, each in model.named_buffers():
        assert each.dtype == buffers[name].dtype
        assert torch.equal(each, buffers[name])
    kept = {name for name, each in model.named_parameters() if each.dtype == torch.float32}
    assert kept == {"mid.0.attention_norm.weight"}


def test_a_tied_head_stays_tied(make_model: Any) -> None:
    model = make_model(tie_embeddings=True)
    convert(model, "bf16-true")
    assert model.end.head.weight is model.begin.embed.weight


def test_the_loss_scale_is_that_of_torch() -> None:
    progress = Progress()
    ours, theirs = LossScale("16-mixed", progress), torch.amp.GradScaler("cpu")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for step in range(3 * GROWTH_INTERVAL):
        bad = step in (0, 1, 7, GROWTH_INTERVAL + 50)
        theirs.scale(weight.sum() * (float("inf") if bad else 1.0)).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        assert ours.skips(float("inf") if bad else 1.0) == bad
        assert ours.value == theirs.get_scale()
    assert LossScale("bf16-mixed", progress).value == 1.0


def test_steps_that_overflow_change_nothing_and_the_run_goes_on(make_model: Any, rows: Rows) -> None:
    """A head of large weights gives gradients that fp16 has no numbers for until the scale is lower."""

    def large() -> Any:
        model = make_model()
        model.end.head.weight.mul_(30)
        return model

    model = large()
    train = Train(epochs=1, max_steps=1, global_batch_size=4)
    run = finetune(model, rows, train=train, precision="16-mixed")
    assert "norm" not in run.history[0]
    for found, wanted in zip(model.parameters(), large().parameters(), strict=True):
        assert torch.equal(found, wanted)
    model = large()
    run = finetune(model, rows, train=Train(epochs=4, global_batch_size=4), precision="16-mixed")
    assert "norm" in run.history[-1]
    assert not torch.equal(model.end.norm.weight, large().end.norm.weight)
