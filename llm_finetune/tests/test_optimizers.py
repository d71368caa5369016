"""Optimizers by name: they step as torch's own, take what is theirs, and go on exactly from a state."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from llm_finetune import OptimizerSettings, Settings, Train, build_optimizers

NAMES = ["AdamW", "SGD", "Muon", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit"]


def _model() -> nn.ModuleDict:
    torch.manual_seed(0)
    layers = {"begin": nn.Embedding(70, 64), "mid": nn.Linear(64, 96), "norm": nn.LayerNorm(64)}
    return nn.ModuleDict(layers)


def _learn(model: nn.ModuleDict, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def _settings(name: Any, **optimizer: Any) -> Settings:
    train = Train(learning_rate=0.01, min_lr=0.0, weight_decay=0.1)
    return Settings(train=train, optimizer=OptimizerSettings(name=name, **optimizer))


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """bitsandbytes warns that its paged optimizers don't page on a CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU", UserWarning)
        yield


def test_adamw_is_torchs_and_vectors_do_not_decay() -> None:
    mine, theirs = _model(), _model()
    groups = [
        {"params": [each for each in theirs.parameters() if each.dim() > 1], "weight_decay": 0.1},
        {"params": [each for each in theirs.parameters() if each.dim() == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.004, betas=(0.9, 0.95))
    found = build_optimizers(dict(mine.named_parameters()), _settings("AdamW"))
    for seed in range(3):
        _learn(mine, seed)
        _learn(theirs, seed)
        found.step(0.004)
        reference.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_on_where_it_was_to_the_bit(name: str) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    whole, begun, resumed = _model(), _model(), _model()
    parts = [build_optimizers(dict(each.named_parameters()), _settings(name, **options)) for each in (whole, begun)]
    for seed in range(4):
        _learn(whole, seed)
        parts[0].step(0.01)
    for seed in range(2):
        _learn(begun, seed)
        parts[1].step(0.01)
    resumed.load_state_dict(begun.state_dict())
    last = build_optimizers(dict(resumed.named_parameters()), _settings(name, **options))
    last.restore(parts[1].state())
    for seed in range(2, 4):
        _learn(resumed, seed)
        last.step(0.01)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_moves_every_parameter(name: str) -> None:
    model, before = _model(), _model()
    _learn(model, 1)
    optimizers = build_optimizers(dict(model.named_parameters()), _settings(name))
    optimizers.step(0.01)
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    optimizers.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_muon_takes_the_matrices_of_layers_alone() -> None:
    model = _model()
    optimizers = build_optimizers(dict(model.named_parameters()), _settings("Muon"))
    by_class = {
        type(part).__name__: {optimizers.names[id(each)] for group in part.param_groups for each in group["params"]}
        for part in optimizers.parts
    }
    assert by_class["Muon"] == {"mid.weight"}
    assert by_class["AdamW"] == {"begin.weight", "mid.bias", "norm.weight", "norm.bias"}


def test_factors_of_the_learning_rate_hold_for_their_parameters() -> None:
    model = _model()
    scales = {"mid.weight": 16.0}
    settings = Settings(train=Train(weight_decay=0.0), optimizer=OptimizerSettings(name="SGD"))
    optimizers = build_optimizers(dict(model.named_parameters()), settings, scales=scales)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(0.5)
    for name, parameter in model.named_parameters():
        assert_close(before[name] - parameter, torch.full_like(parameter, 0.5 * scales.get(name, 1.0)))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda model: build_optimizers({}, Settings()), "nothing is trained"),
        (
            lambda model: build_optimizers(dict(model.named_parameters()), Settings()).restore(({}, {"other/step": 1})),
            "has other, which isn't trained here",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(change: Callable[[nn.Module], Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        change(_model())
