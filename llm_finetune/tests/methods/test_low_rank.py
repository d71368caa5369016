"""LoRA in the training loop: what trains, how it goes on, and what the result is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_finetune import Eval, Lora, Rows, Sample, Train, apply, finetune, lora_parameters, read_adapter, with_lora
from llm_quant import quantize

LORA = Lora(r=4, alpha=8, dropout=0.1, mlp=True)
TRAIN = Train(epochs=3, global_batch_size=4, micro_batch_size=2, learning_rate=1e-2, lr_warmup_steps=2)
IDS = torch.arange(24).view(2, 12)


@pytest.fixture
def rows(make_samples: Any) -> Rows:
    return Rows(train=make_samples(14), val=make_samples(5, seed=1))


def _after(steps: int) -> Any:
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def _losses(run: Any) -> list[Any]:
    return [(row.get("loss"), row.get("val_loss")) for row in run.history]


def test_adapters_alone_train_and_the_result_is_the_model_with_them(
    make_model: Any, rows: Rows, tmp_path: Path
) -> None:
    model, base, options = make_model(), make_model(), {"train": TRAIN, "eval": Eval(initial_validation=True)}
    untrained = finetune(make_model(), rows, **options).history[0]["val_loss"]
    run = finetune(model, rows, method=with_lora(LORA, base="tiny"), out_dir=tmp_path, **options)
    assert run.history[0]["val_loss"] == pytest.approx(untrained, rel=1e-6)  # B is zero in the beginning
    assert run.train_loss is not None
    assert run.train_loss < run.history[1]["loss"]
    assert run.final is not None
    assert not lora_parameters(model)  # merged
    assert torch.equal(base.begin.embed.weight, model.begin.embed.weight)
    with torch.no_grad():
        wanted = model(IDS)
        assert torch.equal(llm_blocks.load(run.final)(IDS), wanted)
        assert (base(IDS) - wanted).abs().max() > 0.1
        apply(base, read_adapter(tmp_path / "adapter"))
        torch.testing.assert_close(base(IDS), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
def test_it_goes_on_to_the_bit_with_dropout_and_on_rounded_weights(
    make_model: Any, rows: Rows, tmp_path: Path, scheme: Any
) -> None:
    def model() -> Any:
        made = make_model()
        return made if scheme is None else quantize(made, scheme, group_size=16)

    def run(folder: str, **more: Any) -> Any:
        return finetune(
            model(), rows, method=with_lora(LORA, base="tiny"), out_dir=tmp_path / folder, train=TRAIN, **more
        )

    whole = run("whole")
    assert run("parts", stop=_after(4)).interrupted
    assert _losses(run("parts", resume=True)) == _losses(whole)
    name = "model.safetensors" if scheme is None else "adapter_model.safetensors"
    files = [tmp_path / each / "final" / name for each in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_rounded_model_needs_the_name_of_its_base_before_any_work(make_model: Any, rows: Rows) -> None:
    model = quantize(make_model(), "int8")
    with pytest.raises(ValueError, match="give base"):
        finetune(model, rows, method=with_lora(LORA), train=TRAIN)
    assert not lora_parameters(model)


def test_preferences_are_compared_with_the_model_without_adapters(make_model: Any) -> None:
    chosen = [Sample(ids=[n, n + 1, n + 2], weights=[0, 1, 1]) for n in range(8)]
    rejected = [Sample(ids=[n, n + 2, n + 1], weights=[0, 1, 1]) for n in range(8)]
    pairs, train = list(zip(chosen, rejected, strict=True)), Train(epochs=20, global_batch_size=4, learning_rate=3e-2)
    run = finetune(make_model(), pairs, method=with_lora(Lora(dropout=0)), train=train)
    assert run.history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert run.train_loss is not None
    assert run.train_loss < 0.5


def test_b_learns_faster_with_lora_plus(make_model: Any) -> None:
    model = make_model()
    method = with_lora(LORA, plus_ratio=16)
    method.prepare(model)
    rates = method.rates(model)
    assert set(rates.values()) == {16}
    assert len(rates) == len(lora_parameters(model)) // 2
    assert all(name.endswith(".b") for name in rates)
    with pytest.raises(ValueError, match="plus_ratio"):
        with_lora(plus_ratio=0)
