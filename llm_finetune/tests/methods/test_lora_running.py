"""Adapted models in other precisions, copied, compiled and recorded."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import llm_quant
from llm_blocks import Recorded
from llm_blocks.testing import check_recorded
from llm_finetune.lora import add_lora, lora_parameters, seed_dropout, set_adapter
from llm_finetune.lora_settings import Lora
from llm_finetune.targets import lora_targets
from llm_quant.linear import BF16_LEVELS

from .dense import as_dense, randomise


def adapt(model: Any, name: str = "default", seed: int = 0, **options: Any) -> Any:
    lora = Lora(**({"dropout": 0.0} | options))
    return add_lora(model, lora_targets(model, lora), lora, name=name, seed=seed)


@pytest.mark.parametrize("dora", [False, True])
def test_a_base_in_bf16(load: Callable[..., Any], ids: torch.Tensor, dora: bool) -> None:
    model = load("llama").to(torch.bfloat16)
    exact = adapt(load("llama"), dora=dora)
    adapt(llm_quant.accelerate(model), dora=dora)
    for each in (exact, model):
        randomise(each)
    assert all(parameter.dtype == torch.float32 for parameter in lora_parameters(model).values())
    with torch.no_grad():
        found, wanted = model(ids), exact(ids)
    assert found.dtype == torch.bfloat16
    assert float((found - wanted).abs().mean() / wanted.abs().mean()) < 0.03
    model(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in lora_parameters(model).values())


@pytest.mark.parametrize("scheme", [None, "int8", "int4"])
@pytest.mark.parametrize("dora", [False, True])
def test_mixed_precision(scheme: Any, dora: bool) -> None:
    """Under autocast factors and magnitudes stay fp32 and get fp32 gradients, near those of fp32."""
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64))
    if scheme is not None:
        llm_quant.quantize(module, scheme)
    add_lora(module, {"0": ("whole",), "2": ("whole",)}, Lora(dropout=0.1, dora=dora)).train()
    randomise(module, std=0.05)
    x, found = torch.randn(5, 64), []
    for mixed in (False, True):
        seed_dropout(module, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            y = module(x)
        assert y.dtype == (torch.bfloat16 if mixed and scheme is None else torch.float32)
        y.float().square().mean().backward()
        found.append([parameter.grad for parameter in lora_parameters(module).values()])
        for parameter in lora_parameters(module).values():
            parameter.grad = None
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert (rounded - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_it_compiles_without_a_break(dora: bool, train: bool) -> None:
    module = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64))
    add_lora(module, {"0": ("whole",), "2": ("whole",)}, Lora(dropout=0, dora=dora)).train(train)
    randomise(module)
    x, compiled = torch.randn(5, 64), torch.compile(module, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(train):
        assert_close(compiled(x), module(x))


@pytest.mark.parametrize("dora", [False, True])
def test_a_copy_of_an_adapted_model(load: Callable[..., Any], ids: torch.Tensor, dora: bool) -> None:
    """The lengths of rows once were results of autograd where the base was trainable, and couldn't be copied."""
    model = adapt(load("llama", trainable=True), dora=dora)
    randomise(model)
    assert torch.equal(copy.deepcopy(model)(ids), model(ids))


@torch.inference_mode()
def test_recorded_steps_have_the_adapter(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = adapt(load("llama"))
    randomise(model)
    recorded, cache = Recorded(model), model.new_cache(2, 32)
    recorded(ids[:, :5], cache)
    steps = [recorded(ids[:, at : at + 1], cache) for at in range(5, 13)]
    assert_close(torch.cat(steps, dim=1), model(ids)[:, 5:], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(llm_quant.level() not in BF16_LEVELS, reason="the kernels don't read bf16 here")
@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt_neox"])
@pytest.mark.parametrize("dora", [False, True])
def test_the_kernels_record_all_that_adapters_do(load: Callable[..., Any], kind: str, dora: bool) -> None:
    """Steps with two adapters at once, on fused projections and beside biases, to the bits of the model's own."""
    model = load(kind).to(torch.bfloat16)
    model.end.head.weight = nn.Parameter(torch.randn(64, 32).bfloat16())  # as many as the kernels take
    llm_quant.accelerate(model)
    adapt(adapt(model, "one", dora=dora), "two", seed=1, r=3, mlp=True)
    randomise(model)
    set_adapter(model, {"one": 1.0, "two": -0.5})
    check_recorded(model, vocab_size=64, steps=8)


@pytest.mark.skipif(llm_quant.level() not in BF16_LEVELS, reason="the kernels don't read bf16 here")
@torch.inference_mode()
def test_what_is_recorded_belongs_to_the_adapters_in_use(load: Callable[..., Any], ids: torch.Tensor) -> None:
    """One by one, with weights, none, and again what was recorded before: always the bits of the model's own steps."""
    model = load("llama").to(torch.bfloat16)
    model.end.head.weight = nn.Parameter(torch.randn(64, 32).bfloat16())
    llm_quant.accelerate(model)
    adapt(adapt(model, "one"), "two", seed=1, mlp=True)
    randomise(model)
    recorded, caches = Recorded(model), [model.new_cache(2, 32) for _ in range(2)]
    for cache in caches:
        model(ids[:, :5], cache)
    choices: list[Any] = ["one", "two", {"one": 0.5}, {"one": 0.5, "two": 1.0}, None]
    for choice in [*choices, *choices]:
        set_adapter(model, choice)
        found, wanted = recorded(ids[:, :1], caches[0]), model(ids[:, :1], caches[1])
        assert torch.equal(found, wanted), choice
    assert recorded.problem is None
    assert len(recorded._steps) == len(choices)


@torch.inference_mode()
def test_dora_sees_new_values_in_evaluation(load: Callable[..., Any], ids: torch.Tensor) -> None:
    """Lengths of rows are kept between steps of generation, and must not be when the factors change."""
    model = adapt(load("llama"), dora=True)
    randomise(model)
    for _ in range(2):
        assert_close(model(ids), as_dense(model)(ids), rtol=1e-4, atol=1e-5)
        for parameter in lora_parameters(model).values():
            parameter *= 1.5
