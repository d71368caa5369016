from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm_finetune.freezing import freeze, train_layers


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def names(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters()}


def test_a_range_of_layers(load: Callable[..., Any]) -> None:
    model = freeze(load("gpt_neox"), layers="0-1")
    assert trained(model) == {name for name in names(model) if not name.startswith("mid.0.")}


def test_embeddings_and_norms(load: Callable[..., Any]) -> None:
    model = freeze(load("gpt_neox"), embeddings=True, norms=True)
    assert trained(model) == {name for name in names(model) if "norm" not in name and not name.startswith("begin.")}
    assert any("norm" in name for name in names(model))


def test_a_tied_head_is_the_embedding(load: Callable[..., Any]) -> None:
    model = freeze(load("tied"), embeddings=True)
    assert not model.end.head.weight.requires_grad
    assert model.end.head.weight is model.begin.embed.weight


def test_freezing_again_begins_anew(load: Callable[..., Any]) -> None:
    model = freeze(freeze(load("llama"), layers="0-1"), layers="1-2")
    assert trained(model) == {name for name in names(model) if not name.startswith("mid.1.")}


def test_a_step_leaves_what_is_frozen(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = train_layers(load("llama"), "1-2")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model(ids).square().mean().backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if name.startswith("mid.1.")}


def test_nothing_left_to_train(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        train_layers(load("llama", part="b 0-1"), "1-2")
    with pytest.raises(ValueError, match="nothing to train"):
        freeze(load("llama", part="b 0-1"), layers="0-1", embeddings=True)
    with pytest.raises(ValueError, match="the model has 2"):
        freeze(load("llama"), layers="0-3")
