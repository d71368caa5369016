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


# Inputs, and what trl 1.16.0 makes of them (torch 2.13.0, fp32, a pair at a time): `DPOTrainer._compute_loss` with the
# loss type sigmoid; `CPOTrainer.cpo_loss` of log-ratios for label smoothing, which trl's DPO has no more (its loss type
# aot_unpaired, which has it, gives the same for a single pair); minus the chosen one and `ORPOTrainer.odds_ratio_loss`.
CHOSEN, REJECTED = [-12.5, -3.25, -40.0, -0.75, -88.0], [-14.0, -2.5, -22.0, -0.5, -30.0]
REF_CHOSEN, REF_REJECTED = [-13.0, -3.5, -41.5, -0.25, -20.0], [-12.25, -2.75, -23.0, -1.5, -75.0]
MEAN_CHOSEN, MEAN_REJECTED = [-0.5, -1.25, -0.03125, -4.0, -9.0], [-0.75, -0.625, -2.5, -6.0, -0.001953125]
TRL_DPO = {
    (0.1, 0.0): [0.5869619846343994, 0.6931471824645996, 0.6684596538543701, 0.7709571123123169, 11.300012588500977],
    (0.5, 0.0): [0.28115013241767883, 0.6931471824645996, 0.575939416885376, 1.1368709802627563, 56.5],
    (0.1, 0.2): [0.6319620013237, 0.6931471824645996, 0.6784597039222717, 0.7409570813179016, 9.040013313293457],
}
TRL_ORPO = {
    0.1: [0.5457912683486938, 1.3852801322937012, 0.031533464789390564, 4.012503147125244, 10.523722648620605],
    0.25: [0.6144781708717346, 1.588200330734253, 0.03195866197347641, 4.031258583068848, 12.809306144714355],
}


@pytest.mark.parametrize(("beta", "smoothing"), TRL_DPO)
def test_dpo_is_that_of_trl(beta: float, smoothing: float) -> None:
    given = [torch.tensor(each) for each in (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)]
    found = dpo_loss(*given, beta=beta, smoothing=smoothing)
    assert_close(found, torch.tensor(TRL_DPO[beta, smoothing]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("beta", TRL_ORPO)
def test_orpo_is_that_of_trl(beta: float) -> None:
    found = orpo_loss(torch.tensor(MEAN_CHOSEN), torch.tensor(MEAN_REJECTED), beta=beta)
    assert_close(found, torch.tensor(TRL_ORPO[beta]), rtol=1e-6, atol=1e-6)
