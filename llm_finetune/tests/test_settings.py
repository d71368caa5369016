"""Settings: what is refused and what the refusal says, and that they come back from plain dictionaries."""

from dataclasses import asdict
from typing import Any

import pytest
from pydantic import ValidationError

from llm_finetune import Eval, OptimizerSettings, Settings, Train, make_settings


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Train(epochs=0), r"train\.epochs is 0, but must be at least 1"),
        (lambda: Train(learning_rate=-1.0), r"train\.learning_rate is -1\.0"),
        (lambda: Train(learning_rate=float("nan")), r"train\.learning_rate is nan"),
        (lambda: Train(beta2=1.0), r"train\.beta2 is 1\.0, but must be from 0 to below 1"),
        (lambda: Train(max_norm=0.0), r"train\.max_norm is 0, with which nothing is learnt"),
        (lambda: Eval(interval=0), r"eval\.interval is 0"),
        (lambda: OptimizerSettings(betas=(0.9, 1.5)), r"optimizer\.betas are two numbers"),
        (lambda: OptimizerSettings(momentum=0.9), "AdamW has no momentum, only betas, eps"),
        (lambda: OptimizerSettings(name="SGD", betas=(0.9, 0.9)), "SGD has no betas"),
        (lambda: Settings(beta=0.0), "beta is 0.0"),
        (lambda: Settings(label_smoothing=0.7), "label_smoothing is 0.7"),
        (lambda: Settings(train=Train(learning_rate=1e-5)), r"train\.min_lr 6e-05 is above the learning rate 1e-05"),
        (
            lambda: Settings(train=Train(learning_rate=1e-3), optimizer=OptimizerSettings(lr=1e-3)),
            r"optimizer\.lr and train\.learning_rate say the same thing",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()


def test_settings_come_back_from_plain_dictionaries() -> None:
    settings = Settings(train=Train(epochs=2, max_norm=1.0), optimizer=OptimizerSettings(name="Muon", betas=(0.5, 0.6)))
    assert make_settings(asdict(settings)) == settings


def test_text_of_a_number_is_read_as_yaml_leaves_it() -> None:
    """YAML leaves 6e-5, which has no point, a string."""
    assert make_settings({"train": {"min_lr": "6e-5"}}).train.min_lr == 6e-5


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValidationError, match=r"train\.epoch\b"):
        make_settings({"train": {"epoch": 3}})
