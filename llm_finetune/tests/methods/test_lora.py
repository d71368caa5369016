import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from llm_finetune.lora import (
    adapters,
    add_lora,
    disabled,
    lora_layers,
    lora_parameters,
    remove_lora,
    seed_dropout,
    set_adapter,
    use_adapter,
)
from llm_finetune.lora_settings import Lora
from llm_finetune.targets import lora_targets

from .dense import as_dense, randomise

KINDS = ("llama", "tied", "gpt_neox", "gpt2", "phi3", "falcon")
ALL: dict[str, bool] = {"key": True, "projection": True, "mlp": True, "head": True}


def adapt(model: Any, name: str = "default", seed: int = 0, **options: Any) -> Any:
    lora = Lora(**({"dropout": 0.0} | options))
    return add_lora(model, lora_targets(model, lora), lora, name=name, seed=seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_begins_as_nothing(load: Callable[..., Any], ids: torch.Tensor, kind: str, dora: bool) -> None:
    model = load(kind)
    with torch.no_grad():  # with gradients norms and gates are computed by torch instead of the kernels
        before = model(ids)
        assert torch.equal(adapt(model, dora=dora, **ALL)(ids), before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_it_computes_what_the_adapted_weights_do(
    load: Callable[..., Any], ids: torch.Tensor, kind: str, rslora: bool, dora: bool
) -> None:
    model = adapt(load(kind), r=3, rslora=rslora, dora=dora, **ALL)
    randomise(model)
    assert_close(model(ids), as_dense(model)(ids), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(ids), as_dense(model, None)(ids), atol=1e-2)


def test_the_scale() -> None:
    assert Lora(r=16, alpha=32).scale == 2
    assert Lora(r=16, alpha=32, rslora=True).scale == 8


def test_nothing_but_adapters_is_trained(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = adapt(load("llama", trainable=True), dora=True)
    model(ids).square().mean().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(lora_parameters(model))
    assert {name.rpartition(".")[2] for name in trained} == {"a", "b", "magnitude"}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(model).values())


def test_the_seed_alone_decides_what_a_layer_begins_with(load: Callable[..., Any]) -> None:
    few, many = adapt(load("llama"), seed=4), adapt(load("llama"), seed=4, **ALL)
    shared = lora_parameters(few)
    assert shared.keys() < lora_parameters(many).keys()
    assert all(torch.equal(parameter, lora_parameters(many)[name]) for name, parameter in shared.items())
    factors = [parameter for name, parameter in shared.items() if name.endswith(".a")]
    assert len({tuple(factor.flatten().tolist()) for factor in factors}) == len(factors)
    other = lora_parameters(adapt(load("llama"), seed=5))
    assert not any(torch.equal(parameter, other[name]) for name, parameter in shared.items() if name.endswith(".a"))


def test_several_adapters(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = load("phi3")
    base = model(ids)
    adapt(model, "one", r=2)
    randomise(model)
    one = model(ids)
    adapt(model, "two", dora=True, projection=True)
    randomise(model, std=0.02)
    assert adapters(model) == ["one", "two"]
    two = model(ids)
    assert_close(two, as_dense(model, "two")(ids), rtol=1e-4, atol=1e-5)
    set_adapter(model, "one")
    assert not torch.equal(model(ids), one)  # the second randomise moved it
    with use_adapter(model, {"one": 0.5, "two": 0.25}):
        mixed = model(ids)
    with use_adapter(model, {"one": 0.0, "two": 1.0}):
        assert_close(model(ids), two)
    assert not torch.allclose(mixed, two)
    with disabled(model):
        assert torch.equal(model(ids), base)
    assert torch.equal(model(ids), as_logits(model, ids, "one"))


def as_logits(model: Any, ids: torch.Tensor, choice: str) -> torch.Tensor:
    with use_adapter(model, choice):
        return model(ids)


def test_weights_of_a_mixture_multiply_what_is_added() -> None:
    module = nn.Sequential(nn.Linear(5, 4))
    for seed, name in enumerate(("one", "two")):
        add_lora(module, {"0": ("whole",)}, Lora(r=2), name=name, seed=seed)
    randomise(module)
    x = torch.randn(3, 5)
    module.eval()
    added = {name: as_logits(module, x, name) - module[0].base(x) for name in ("one", "two")}
    with use_adapter(module, {"one": 0.5, "two": -2.0}):
        assert_close(module(x) - module[0].base(x), 0.5 * added["one"] - 2 * added["two"])


def test_the_choice_comes_back_after_an_exception(load: Callable[..., Any]) -> None:
    model = adapt(load("llama"))
    with pytest.raises(RuntimeError, match="inside"), disabled(model):
        raise RuntimeError("inside")
    assert all(layer.active == {"default": 1.0} for layer in lora_layers(model).values())


def test_the_second_adapter_leaves_the_first_trainable(load: Callable[..., Any]) -> None:
    model = adapt(adapt(load("llama"), "one"), "two")
    assert all(parameter.requires_grad for parameter in lora_parameters(model, "one").values())


def test_removing(load: Callable[..., Any]) -> None:
    model = load("gpt2")
    before = dict(model.named_modules())
    adapt(adapt(model, "one", projection=True), "two")
    remove_lora(model, "two")
    assert adapters(model) == ["one"]
    remove_lora(model)
    assert dict(model.named_modules()) == before


def test_dropout_in_training_alone(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = adapt(load("llama"), dropout=0.5)
    randomise(model)
    exact = model(ids)
    assert torch.equal(model(ids), exact)
    model.train()
    assert not torch.equal(model(ids), model(ids))


def test_seeded_dropout_is_a_function_of_the_seed(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = adapt(load("llama"), dropout=0.5).train()
    randomise(model)
    found = []
    for seed in (1, 2, 1):
        seed_dropout(model, seed)
        before = torch.get_rng_state()
        found.append(model(ids))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    seed_dropout(model, None)
    assert not torch.equal(model(ids), model(ids))


def test_seeded_dropout_keeps_the_mean() -> None:
    module = nn.Sequential(nn.Linear(64, 8))
    add_lora(module, {"0": ("whole",)}, Lora(dropout=0.25)).train()
    slot: Any = lora_layers(module)["0"].slots["default"]
    seed_dropout(module, 3)
    dropped = slot.dropped(torch.ones(1000, 64))
    assert_close(dropped.unique(), torch.tensor([0, 4 / 3]))
    assert abs(float(dropped.mean()) - 1) < 0.01


def test_recomputed_activations_have_the_same_masks() -> None:
    found, base = [], nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 4))
    for recompute in (False, True):
        module = copy.deepcopy(base)
        add_lora(module, {"0": ("whole",), "2": ("whole",)}, Lora(dropout=0.5), seed=1).train()
        randomise(module)
        seed_dropout(module, 7)
        x = torch.linspace(-1, 1, 48).view(3, 16)
        y = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False) if recompute else module(x)
        y.square().sum().backward()
        found.append([parameter.grad for parameter in lora_parameters(module).values()])
    assert_close(found[0], found[1], rtol=0, atol=0)


def test_targets_that_are_none(load: Callable[..., Any]) -> None:
    model = load("phi3")
    before = dict(model.named_modules())
    for targets, said in (
        ({"mid.0.attention.q": ("whole",)}, "no layer 'mid.0.attention.q'"),
        ({"mid.0.attention.o": ("q",)}, "parts whole, of which"),
        ({"mid.0.attention.qkv": ()}, "parts whole, q, k, v"),
        ({"mid.0.attention.qkv": ("q", "whole")}, "is no choice"),
        ({"mid.0.attention.qkv": ("q", "q")}, "is no choice"),
        ({"mid.0.mlp": ("whole",)}, "LoRA goes onto linear layers"),
        ({"begin.embed": ("whole",)}, "LoRA goes onto linear layers"),
        ({"": ("whole",)}, "the model itself"),
    ):
        with pytest.raises(ValueError, match=said):
            add_lora(model, {"mid.1.attention.o": ("whole",)} | targets, Lora())
        assert dict(model.named_modules()) == before


def test_names_of_adapters(load: Callable[..., Any]) -> None:
    model = adapt(load("llama"))
    for name, said in (("default", "already"), ("a.b", "letters"), ("", "letters"), ("keys", "word of torch")):
        with pytest.raises(ValueError, match=said):
            adapt(model, name)
    for act in (set_adapter, remove_lora):
        with pytest.raises(ValueError, match="no adapter 'other'; there are default"):
            act(model, "other")
    with pytest.raises(ValueError, match="finite numbers"):
        set_adapter(model, {"default": float("nan")})
