"""The learning rate of each step."""

import math
from collections.abc import Callable

from llm_finetune.settings import Settings

USUAL = 100  # steps of warm-up


def schedule(settings: Settings, steps: int) -> Callable[[int], float]:
    """The learning rate by step, from 0, of a run of `steps`: a linear rise to the peak, then as the schedule has it.

    cosine (arXiv 1608.03983) and linear fall towards min_lr, which the step after the last would have; wsd (arXiv
    2404.06395) stays at the peak and does so in the last `cooldown_fraction` of all steps, in a line. ValueError for a
    warm-up that leaves no step after it.
    """
    train, peak = settings.train, settings.learning_rate
    warm = _warmup(settings, steps)
    least = peak if train.schedule == "constant" else train.min_lr
    cooldown = steps - warm
    if train.schedule == "wsd":
        cooldown = max(1, min(cooldown, math.ceil(train.cooldown_fraction * steps)))

    def rate(step: int) -> float:
        if step < warm:
            return peak * (step + 1) / warm
        left = min(1.0, (steps - step) / cooldown)
        share = (1 + math.cos(math.pi * (1 - left))) / 2 if train.schedule == "cosine" else left
        return least + (peak - least) * max(0.0, share)

    return rate


def _warmup(settings: Settings, steps: int) -> int:
    train = settings.train
    if train.lr_warmup_fraction is not None:
        return int(train.lr_warmup_fraction * steps)
    if train.lr_warmup_steps is None:
        return USUAL if steps > USUAL else steps // 10
    if train.lr_warmup_steps < steps or train.lr_warmup_steps == 0:
        return train.lr_warmup_steps
    raise ValueError(
        f"train.lr_warmup_steps is {train.lr_warmup_steps} and the whole run has {steps} steps; lower it, or say it as "
        "a part of the run: train.lr_warmup_fraction, such as 0.1"
    )
