"""First, peak and last learning rates of each schedule, and the warm-ups that are refused."""

import math
from typing import Any

import pytest

from llm_finetune import Settings, Train, schedule


def _rates(steps: int, **train: Any) -> list[float]:
    rate = schedule(Settings(train=Train(learning_rate=1.0, min_lr=0.1, **train)), steps)
    return [rate(step) for step in range(steps)]


def test_cosine_rises_in_a_line_and_falls_in_half_a_wave() -> None:
    rates = _rates(20, lr_warmup_steps=4)
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[12] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 15 / 16)))


def test_linear_falls_in_a_line() -> None:
    rates = _rates(10, lr_warmup_steps=0, schedule="linear")
    assert rates == pytest.approx([0.1 + 0.9 * (10 - step) / 10 for step in range(10)])


def test_constant_stays_at_the_peak_whatever_min_lr_is() -> None:
    assert _rates(5, lr_warmup_fraction=0.4, schedule="constant") == pytest.approx([0.5, 1, 1, 1, 1])
    low = Settings(train=Train(learning_rate=1e-6, schedule="constant", lr_warmup_steps=0))
    assert schedule(low, 3)(2) == pytest.approx(1e-6)


def test_wsd_is_stable_until_its_last_part() -> None:
    rates = _rates(10, lr_warmup_steps=2, schedule="wsd", cooldown_fraction=0.3)
    assert rates[:7] == pytest.approx([0.5, 1, 1, 1, 1, 1, 1])
    assert rates[7:] == pytest.approx([1.0, 0.7, 0.4])
    assert _rates(4, lr_warmup_steps=0, schedule="wsd", cooldown_fraction=0.0) == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize(("steps", "first"), [(200, 0.01), (100, 0.1), (20, 0.5), (5, 1.0)])
def test_the_usual_warm_up_fits_short_runs(steps: int, first: float) -> None:
    assert _rates(steps)[0] == pytest.approx(first)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lr_warmup_steps is 10 and the whole run has 10 steps.*lr_warmup_fraction"):
        _rates(10, lr_warmup_steps=10)
