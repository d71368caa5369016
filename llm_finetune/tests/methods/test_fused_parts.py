from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from llm_finetune.lora import add_lora, lora_layers, lora_parameters
from llm_finetune.lora_settings import Lora
from llm_finetune.targets import lora_targets

from .dense import adapted, as_dense, randomise, rows_of, weight_of


@pytest.mark.parametrize("kind", ["gpt_neox", "falcon", "phi3", "gpt2"])
@pytest.mark.parametrize("parts", [("q", "v"), ("k",), ("v", "q")])
@pytest.mark.parametrize("dora", [False, True])
def test_the_rows_of_the_parts_change_and_no_others(
    load: Callable[..., Any], ids: torch.Tensor, kind: str, parts: tuple[str, ...], dora: bool
) -> None:
    model, lora = load(kind), Lora(dropout=0, dora=dora)
    add_lora(model, {f"mid.{i}.attention.qkv": parts for i in range(2)}, lora)
    randomise(model)
    for layer in lora_layers(model).values():
        changed = (adapted(layer, "default") - weight_of(layer.base)).abs().sum(dim=1).nonzero().flatten().tolist()
        assert changed == sorted(row for part in parts for row in rows_of(layer, part))
        x = torch.randn(3, layer.in_features)
        moved = (layer(x) - layer.base(x)).abs().sum(dim=0).nonzero().flatten().tolist()
        assert set(moved) == set(changed)
    assert_close(model(ids), as_dense(model)(ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt_neox", "falcon", "phi3", "gpt2"])
def test_gradients_are_those_of_the_dense_weight(load: Callable[..., Any], ids: torch.Tensor, kind: str) -> None:
    model, lora = load(kind), Lora(dropout=0, r=3)
    add_lora(model, lora_targets(model, lora), lora)
    randomise(model)
    model(ids).square().mean().backward()
    dense = as_dense(model)
    dense(ids).square().mean().backward()
    for path, layer in lora_layers(model).items():
        whole = dense.get_submodule(path).weight.grad
        slot: Any = layer.slots["default"]
        for part, pair in slot.pairs.items():
            rows = whole[rows_of(layer, part)] * slot.scale
            assert_close(pair.a.grad, pair.b.detach().T @ rows, rtol=1e-4, atol=1e-6)
            assert_close(pair.b.grad, rows @ pair.a.detach().T, rtol=1e-4, atol=1e-6)
    assert len(lora_parameters(model)) == 8
