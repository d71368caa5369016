"""A step's gradient is that of its rows, however they are cut into micro-batches and whatever their masks."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from llm_finetune import OptimizerSettings, Sample, Train, finetune
from llm_finetune.gradients import Gradients

ROWS = 8


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


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 8])
def test_one_step_is_that_of_all_rows_at_once(make_model: Any, make_samples: Any, micro: int) -> None:
    """One step of SGD shows the gradient; a micro-batch of one row is without any trained token."""
    samples, model = make_samples(ROWS), make_model()
    wanted = _plain_gradients(make_model(), samples)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    train = Train(
        global_batch_size=ROWS, micro_batch_size=micro, epochs=1, learning_rate=1.0, weight_decay=0.0, chunk_size=5
    )
    finetune(model, samples, train=train, optimizer=OptimizerSettings(name="SGD"))
    for name, parameter in model.named_parameters():
        assert_close(before[name] - parameter, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 4])
def test_whole_runs_do_not_depend_on_the_micro_batches(make_model: Any, make_samples: Any, cut: int) -> None:
    samples, histories = make_samples(24), []
    for micro in (8, cut):
        train = Train(global_batch_size=8, micro_batch_size=micro, epochs=2, max_norm=0.5)
        histories.append(finetune(make_model(), samples, train=train).history)
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-5)
        assert one["trained_tokens"] == other["trained_tokens"]


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
