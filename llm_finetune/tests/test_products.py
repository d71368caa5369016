"""Training in a workspace computes what torch's own operators do."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from llm_finetune import Lora, Rows, Train, add_lora, finetune, lora_parameters, lora_targets, products, with_lora
from llm_finetune.loss import linear_cross_entropy, position_nll
from llm_finetune.products import lean
from llm_quant import quantize, workspace


def learned(module: nn.Module, x: Tensor, *, inside: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What a module gives, the gradient of x, and those of what trains."""
    trained = [each for each in module.parameters() if each.requires_grad]
    own = x.clone().requires_grad_()
    with lean() if inside else nullcontext():
        y = module(own) + own.sum(-1, keepdim=True)
        d, *rest = torch.autograd.grad((y.float() * torch.linspace(-1, 1, y.size(-1))).sum(), [own, *trained])
    return y.detach(), d, rest


def adapted(change: Callable[[nn.Module], Any] = lambda module: None, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 384), nn.SiLU(), nn.Linear(384, 256, bias=False))
    change(module)
    lora = Lora(r=4, alpha=8, targets=("*",), **({"dropout": 0.0} | options))
    add_lora(module, lora_targets(module, lora), lora)
    for name, each in lora_parameters(module).items():
        if name.endswith(".b"):
            nn.init.normal_(each, std=0.1)
    return module.train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_on_plain_layers(dtype: torch.dtype) -> None:
    module, x = adapted(lambda module: module.to(dtype)), torch.randn(3, 300, 256).to(dtype)
    step = 1e-5 if dtype == torch.float32 else 2**-6
    for one, other in zip(learned(module, x, inside=True), learned(module, x, inside=False), strict=True):
        for mine, plain in zip(*([each] if isinstance(each, Tensor) else each for each in (one, other)), strict=True):
            scale = plain.abs().max().clamp(min=1e-3)
            assert_close(mine / scale, plain / scale, rtol=0, atol=step)


@pytest.mark.parametrize("change", ["int8", "dora", "dropout"])
def test_other_layers_and_settings(change: str) -> None:
    module = {
        "int8": lambda: adapted(lambda module: quantize(module, "int8")),
        "dora": lambda: adapted(dora=True),
        "dropout": lambda: adapted(dropout=0.3),
    }[change]()
    x, found = torch.randn(500, 256), []
    for inside in (True, False):
        torch.manual_seed(1)
        found.append(learned(module, x, inside=inside))
    assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_large_results_lie_in_the_workspace_and_small_or_trainable_ones_do_not() -> None:
    layer, x = nn.Linear(256, 256).requires_grad_(False), torch.randn(600, 256, requires_grad=True)

    def where(y: Tensor) -> bool:
        return not y.untyped_storage().resizable()

    with lean():
        assert where(x + x)
        assert not where(x[:4] + x[:4])
        assert where(layer(x.double().float())) or products._has_onednn()
        layer.weight.requires_grad_(True)
        assert not where(layer(x))
        with torch.no_grad():
            assert not where(x + x)
    assert not where(x + x)
    assert not workspace.in_use()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_of_chunks(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, x = nn.Linear(64, 3000, bias=False).to(dtype).requires_grad_(False), torch.randn(70, 64).to(dtype)
    targets, weights = torch.randint(0, 3000, (70,)), torch.rand(70)

    def loss(x: Tensor) -> tuple[Tensor, Tensor]:
        own = x.clone().requires_grad_()
        found = linear_cross_entropy(head, own, targets, weights, chunk=32)
        return found.detach(), torch.autograd.grad(found, own)[0]

    wanted = (F.cross_entropy(head(x).float(), targets, reduction="none") * weights).sum()
    with lean():
        found, d = loss(x)
        nll = position_nll(head, (own := x.clone().requires_grad_()), targets, chunk=32)
        twice = [torch.autograd.grad(nll @ weights, own, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)
    assert_close(twice[0], d, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert_close(d, loss(x)[1], rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_a_run_learns_as_it_does_without(make_model: Any, make_samples: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "SMALLEST", 1)
    losses: list[list[float]] = []
    for inside in (True, False):
        if not inside:
            monkeypatch.setattr("llm_finetune.train.lean", nullcontext)
        run = finetune(
            make_model(),
            Rows(train=make_samples(24)),
            method=with_lora(Lora(r=4, dropout=0.1, mlp=True), base="none"),
            train=Train(epochs=3, global_batch_size=8, micro_batch_size=4, learning_rate=1e-2),
        )
        losses.append([row["loss"] for row in run.history if "loss" in row])
    assert losses[0][-1] < losses[0][0]
    assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-5, atol=1e-6)


def test_a_forward_that_is_computed_again_is_the_same(
    make_model: Any, make_samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mode isn't there while backward runs, so that torch once refused the second forward as another one."""
    monkeypatch.setattr(workspace, "SMALLEST", 1)
    losses: list[list[float]] = []
    for again in (True, False):
        run = finetune(
            make_model(),
            Rows(train=make_samples(16)),
            method=with_lora(Lora(r=4, dropout=0.1, mlp=True), base="none"),
            train=Train(epochs=2, global_batch_size=8, learning_rate=1e-2, activation_checkpointing=again),
        )
        losses.append([row["loss"] for row in run.history if "loss" in row])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_of_no_rows(dtype: torch.dtype) -> None:
    layer, x = nn.Linear(8, 4, dtype=dtype).requires_grad_(False), torch.zeros(2, 0, 8, dtype=dtype)
    with lean():
        y = layer(x.requires_grad_())
        y.sum().backward()
    assert y.shape == (2, 0, 4)


def test_a_sum_keeps_the_strides_of_its_terms() -> None:
    x = torch.randn(4, 256, 8, 64, requires_grad=True).transpose(1, 2)
    with lean():
        assert (x + x).transpose(1, 2).view(4, 256, 512).shape == (4, 256, 512)
