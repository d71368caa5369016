"""Losses over pairs of answers of which one was preferred. Shapes: B pairs; all log-probabilities are natural logs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    smoothing: float = 0.0,
) -> Tensor:
    """The loss (B,) of direct preference optimization (arXiv 2305.18290, eq. 7).

    Each argument (B,) is the log-probability of a whole answer given its prompt: by the trained model, and by the
    reference. `smoothing` is the share of pairs that are taken to be labelled the wrong way (cDPO). ValueError for a
    beta that isn't positive and a smoothing outside 0 to 0.5.
    """
    _check_beta(beta)
    if not 0 <= smoothing <= 0.5:
        raise ValueError(f"label smoothing is a share of wrong labels from 0 to 0.5, not {smoothing}")
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -(1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)


def orpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """The loss (B,) of odds ratio preference optimization (arXiv 2403.07691, eq. 6, whose lambda is `beta`).

    The arguments (B,) are log-probabilities of answers by token: their mean over the tokens of the answer. No reference
    is needed. ValueError for a beta that isn't positive.
    """
    _check_beta(beta)
    log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -chosen - beta * F.logsigmoid(log_odds)


def _check_beta(beta: float) -> None:
    if not beta > 0 or math.isinf(beta):
        raise ValueError(f"beta is a positive number, not {beta}")


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, by the one of two forms that keeps its digits; a certain answer has finite odds."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near = x > -math.log(2)
    # each form is given an input that is safe for it, for the other's gradient is multiplied by 0 and inf would stay
    small = torch.log(-torch.expm1(torch.where(near, x, -1.0)))
    large = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, small, large)
