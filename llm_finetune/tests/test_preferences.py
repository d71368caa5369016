"""DPO and ORPO against their papers' formulas, written out in probabilities and double precision."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from llm_finetune import dpo_loss, orpo_loss

PROBABILITIES = [(0.3, 0.2, 0.25, 0.25), (0.01, 0.6, 0.02, 0.5), (0.9, 1e-4, 0.4, 1e-3)]


def _columns(dtype: torch.dtype) -> list[Tensor]:
    return [torch.tensor(column, dtype=dtype).log().requires_grad_() for column in zip(*PROBABILITIES, strict=True)]


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.2)])
def test_dpo_is_the_logistic_loss_of_the_ratio_of_ratios(beta: float, smoothing: float) -> None:
    wanted = []
    for chosen, rejected, ref_chosen, ref_rejected in PROBABILITIES:
        better = ((chosen / ref_chosen) / (rejected / ref_rejected)) ** beta
        wanted.append(-(1 - smoothing) * math.log(better / (1 + better)) - smoothing * math.log(1 / (1 + better)))
    found = dpo_loss(*_columns(torch.float64), beta=beta, smoothing=smoothing)
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_orpo_adds_the_logistic_loss_of_the_odds_ratio() -> None:
    wanted = []
    for chosen, rejected, *_ in PROBABILITIES:
        ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
        wanted.append(-math.log(chosen) - 0.3 * math.log(ratio / (1 + ratio)))
    found = orpo_loss(*_columns(torch.float64)[:2], beta=0.3)
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_small_differences() -> None:
    columns = _columns(torch.float64)
    assert torch.autograd.gradcheck(lambda *each: dpo_loss(*each, beta=0.4, smoothing=0.1), columns)
    assert torch.autograd.gradcheck(lambda *each: orpo_loss(*each, beta=0.4), columns[:2])


def test_certain_and_impossible_answers_give_finite_losses_and_gradients() -> None:
    sure, never = torch.tensor([0.0, -1e-9, -300.0], requires_grad=True), torch.tensor([-300.0, 0.0, 0.0])
    for loss in (orpo_loss(sure, never), dpo_loss(sure, never, never, sure.detach())):
        loss.sum().backward()
        assert bool(loss.isfinite().all())
        assert sure.grad is not None
        assert bool(sure.grad.isfinite().all())


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta is a positive number"):
        dpo_loss(*_columns(torch.float32), beta=beta)
    with pytest.raises(ValueError, match="beta is a positive number"):
        orpo_loss(*_columns(torch.float32)[:2], beta=beta)


def test_a_smoothing_beyond_a_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 0\.5, not 0\.6"):
        dpo_loss(*_columns(torch.float32), smoothing=0.6)
