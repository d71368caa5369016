from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import llm_quant
from llm_finetune.linears import row_squares, sizes_of, weight_rows, weight_times
from llm_finetune.lora import add_lora, lora_layers, lora_parameters
from llm_finetune.lora_settings import Lora
from llm_finetune.targets import lora_targets
from llm_quant import QuantizedLinear, Scheme, round_int4, round_int8

from .dense import as_dense, randomise, weight_of

SCHEMES: tuple[Scheme, ...] = ("int8", "int4", "bnb.nf4", "bnb.nf4-dq", "bnb.fp4")


# bitsandbytes has no layer for the transposed weights of GPT-2, and llm_quant refuses it
@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        (kind, scheme)
        for kind in ("llama", "gpt_neox", "phi3", "gpt2")
        for scheme in SCHEMES[: 2 if kind == "gpt2" else 5]
    ],
)
@pytest.mark.parametrize("dora", [False, True])
def test_gradients_are_those_on_the_numbers_that_it_stands_for(
    load: Callable[..., Any], ids: torch.Tensor, kind: str, scheme: Scheme, dora: bool
) -> None:
    model = llm_quant.quantize(load(kind), scheme, group_size=32)
    lora = Lora(dropout=0, dora=dora, projection=True, mlp=True, head=True)
    targets = lora_targets(model, lora)
    dense = add_lora(as_dense(model, None), targets, lora)
    add_lora(model, targets, lora)
    assert all(not isinstance(layer.base, torch.nn.Linear) for layer in lora_layers(model).values())
    for each in (model, dense):
        randomise(each, std=0.02)
        each(ids).float().square().mean().backward()
    assert_close(model(ids), dense(ids), rtol=2e-3, atol=2e-3)
    wanted = lora_parameters(dense)
    for name, parameter in lora_parameters(model).items():
        apart = (parameter.grad - wanted[name].grad).norm() / wanted[name].grad.norm()
        assert apart < 2e-3, f"{name} is {apart:.1e} apart"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_of_quantized_layers(load: Callable[..., Any], scheme: Scheme) -> None:
    model = llm_quant.quantize(load("llama"), scheme, group_size=32)
    layer = model.mid["0"].mlp.up
    weight, a = weight_of(layer), torch.randn(3, 32)
    assert sizes_of(layer) == tuple(weight.shape)
    assert_close(torch.cat(list(weight_rows(layer))), weight)
    assert_close(row_squares(layer), weight.square().sum(dim=1))
    assert_close(weight_times(layer, a), weight @ a.T)


@pytest.mark.parametrize("rounded", [round_int8, lambda weight: round_int4(weight, 8)])
def test_columns_in_another_order(rounded: Callable[[torch.Tensor], Any]) -> None:
    """What `weight_rows` gives multiplies the inputs as they come, whatever order the columns are stored in."""
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    layer = QuantizedLinear(rounded(torch.randn(700, 16)), order=order)
    x = torch.randn(4, 16)
    assert_close(x @ torch.cat(list(weight_rows(layer))).T, layer(x), rtol=1e-3, atol=1e-2)


def test_qlora_learns(load: Callable[..., Any], ids: torch.Tensor) -> None:
    model = llm_quant.quantize(load("llama"), "bnb.nf4")
    lora = Lora(dropout=0)
    add_lora(model, lora_targets(model, lora), lora)
    optimizer = torch.optim.AdamW(lora_parameters(model).values(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.3
