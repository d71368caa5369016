"""A step's gradient is that of its rows, however they are cut into micro-batches and whatever their masks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from llm_finetune import OptimizerSettings, Sample, Train, finetune
from llm_finetune.gradients import Gradients

ROWS, SGD = 8, OptimizerSettings(name="SGD", momentum=0.9, weight_decay=0.0)


def _plain_gradients(model: Any, samples: list[Sample]) -> dict[str, Tensor]:
    """The gradient of the mean over all trained tokens, from the whole logits of one row at a time."""
    model.requires_grad_(True)
    total, weight = torch.zeros(()), 0.0
    for sample in samples:
        ids, weights = torch.tensor([sample.ids]), torch.tensor(sample.weights)
        nll = F.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="none")
        total, weight = total + (nll * weights[1:]).sum(), weight + float(weights[1:].sum())
    (total / weight).backward()
    return {name: each.grad for name, each in model.named_parameters()}


def _check_near(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], within: float) -> None:
    """All numbers to so much of the largest of their tensor."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert_close(found[name], tensor, rtol=0, atol=within * float(tensor.abs().max()), msg=name)


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_one_step_is_that_of_all_rows_at_once(make_model: Any, make_samples: Any, tmp_path: Path, micro: int) -> None:
    """What SGD remembers of one step is its gradient; a micro-batch of one row is without any trained token.

    The gradient in double precision is as far from fp32 in several batches as it is from fp32 in one.
    """
    samples, found = make_samples(ROWS), []
    for size in (micro, ROWS):
        train = Train(global_batch_size=ROWS, micro_batch_size=size, epochs=1, chunk_size=5)
        finetune(make_model(), samples, out_dir=tmp_path / str(size), train=train, optimizer=SGD)
        kept = load_file(tmp_path / str(size) / "step-000001" / "optimizer.safetensors")
        found.append({name.removesuffix("/momentum_buffer"): each for name, each in kept.items()})
    _check_near(found[0], found[1], 1e-6)
    exact = _plain_gradients(make_model(dtype=torch.float64), samples)
    _check_near(found[0], {name: each.float() for name, each in exact.items()}, 2e-6)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("cut", [1, 4])
def test_whole_runs_do_not_depend_on_the_micro_batches(
    make_model: Any, make_samples: Any, cut: int, optimizer: str
) -> None:
    """AdamW divides each gradient by its own size: of those that are nearly 0 nothing is left but their rounding."""
    samples, histories, weights = make_samples(24), [], []
    rate: dict[str, Any] = {"learning_rate": 0.1} if optimizer == "SGD" else {}
    for micro in (8, cut):
        model, train = make_model(), Train(global_batch_size=8, micro_batch_size=micro, epochs=2, max_norm=0.5, **rate)
        chosen = SGD if optimizer == "SGD" else OptimizerSettings()
        histories.append(finetune(model, samples, train=train, optimizer=chosen).history)
        weights.append(dict(model.named_parameters()))
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-6)
        assert one["trained_tokens"] == other["trained_tokens"]
    _check_near(weights[0], weights[1], 1e-6 if optimizer == "SGD" else 1e-5)


def test_gradients_in_bf16_are_added_up_in_fp32() -> None:
    """256 + 1 + … + 1 stays 256 in bf16."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    gradients = Gradients({"p": parameter})
    for number in range(9):
        (parameter * (256 if number == 0 else 1)).sum().backward()
        if number < 8:
            gradients.collect()
    gradients.finish()
    assert parameter.grad is not None
    assert parameter.grad.dtype == torch.bfloat16
    assert float(parameter.grad) == 264


@pytest.mark.parametrize(("most", "norm"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping_brings_the_norm_of_all_gradients_down(most: float | None, norm: float) -> None:
    parameters = {"a": torch.nn.Parameter(torch.zeros(1)), "b": torch.nn.Parameter(torch.zeros(2, 2))}
    parameters["a"].grad, parameters["b"].grad = torch.tensor([3.0]), torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    gradients = Gradients(parameters)
    assert gradients.clip(most) == pytest.approx(5.0)
    assert gradients.clip(None) == pytest.approx(norm)
