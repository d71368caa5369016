"""Mixtures of experts: against each token sent through its experts by a loop, and in files stacked or in pieces."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import llm_blocks
from llm_blocks import Experts
from llm_sepweight import WeightsError


def _experts(num: int = 5, dim: int = 8, hidden: int = 6) -> Experts:
    generator = torch.Generator().manual_seed(num)
    experts = Experts(num, dim, hidden)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, 0, 0.5, generator=generator)
    return experts


def _by_loop(experts: Experts, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    rows = []
    for token, shares, numbers in zip(x, weights, chosen, strict=True):
        row = torch.zeros_like(token)
        for share, number in zip(shares, numbers, strict=True):
            gate, up = (experts.gate_up[number] @ token).chunk(2)
            row = row + share * (experts.down[number] @ (F.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows)


@settings(deadline=None, max_examples=30)
@given(tokens=st.integers(1, 9), used=st.integers(1, 5), hidden=st.sampled_from([4, 6]), seed=st.integers(0, 99))
def test_each_token_goes_through_its_own_experts(tokens: int, used: int, hidden: int, seed: int) -> None:
    torch.manual_seed(seed)
    experts = _experts(hidden=hidden)  # widths that torch groups, and others
    x, weights = torch.randn(tokens, 8), torch.rand(tokens, used)
    chosen = torch.stack([torch.randperm(5)[:used] for _ in range(tokens)])
    wanted = _by_loop(experts, x, weights, chosen)
    torch.testing.assert_close(experts(x, weights, chosen), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hidden", [4, 6])
def test_gradients_reach_the_experts_that_were_used_and_no_others(hidden: int) -> None:
    experts = _experts(4, hidden=hidden)
    x, weights = torch.randn(3, 8, requires_grad=True), torch.rand(3, 2, requires_grad=True)
    chosen = torch.tensor([[0, 2], [2, 0], [0, 2]])
    found = torch.autograd.grad(experts(x, weights, chosen).square().sum(), [*experts.parameters(), x, weights])
    wanted = torch.autograd.grad(
        _by_loop(experts, x, weights, chosen).square().sum(), [*experts.parameters(), x, weights]
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert found[0][[1, 3]].eq(0).all()


def test_another_activation_is_used() -> None:
    x, weights, chosen = torch.randn(2, 8), torch.ones(2, 1), torch.tensor([[1], [0]])
    silu, relu = _experts(2), Experts(2, 8, 6, activation=F.relu)
    relu.load_state_dict(silu.state_dict())
    assert not torch.allclose(silu(x, weights, chosen), relu(x, weights, chosen))


def test_half_precision_stays_half_precision() -> None:
    experts = _experts().bfloat16()
    out = experts(torch.randn(3, 8).bfloat16(), torch.rand(3, 2), torch.tensor([[0, 1], [4, 2], [1, 3]]))
    assert out.dtype == torch.bfloat16


def test_double_precision_is_computed_too() -> None:
    """torch doesn't group products in float64, and a mixture of experts that was loaded in it failed."""
    experts = _experts().double()
    x, weights, chosen = torch.randn(3, 8).double(), torch.rand(3, 2), torch.tensor([[0, 1], [4, 2], [1, 3]])
    torch.testing.assert_close(experts(x, weights, chosen), _by_loop(experts, x, weights, chosen))


def test_pieces_are_views_and_cover_every_parameter() -> None:
    experts = _experts(3)
    pieces = experts.pieces()
    assert [name for name, _ in pieces["down"]] == ["0.down.weight", "1.down.weight", "2.down.weight"]
    assert [name for name, _ in pieces["gate_up"]][:3] == ["0.gate.weight", "0.up.weight", "1.gate.weight"]
    for parts in pieces.values():
        for _, part in parts:
            part.fill_(7.0)
    assert all(parameter.eq(7).all() for parameter in experts.parameters())


@pytest.mark.parametrize("num", [0, 2**20])
def test_an_absurd_number_of_experts_is_refused(num: int) -> None:
    """A stranger's config.json may claim any number, and each piece has a name."""
    with pytest.raises(ValueError, match=f"from 1 to 16384 experts, not {num}"):
        Experts(num, 8, 8)


def test_experts_of_more_bytes_than_can_be_counted_are_refused() -> None:
    """torch raised a RuntimeError about an overflow where config.json claimed sizes that each pass alone."""
    with torch.device("meta"), pytest.raises(ValueError, match="16384 experts from 268435456 to 268435456 are not"):
        Experts(2**14, 2**28, 2**28)


IDS = torch.tensor([[1, 2, 3, 4]])


def test_experts_are_saved_one_by_one_and_read_back_either_way(mixture: ModuleType, tmp_path: Path) -> None:
    model = llm_blocks.new_model(mixture.Config(), std=0.3)
    llm_blocks.save(model, tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / "model.safetensors")
    assert tensors["layers.2.e.1.up.weight"].shape == (8, 16)
    assert not any(name.endswith("gate_up") for name in tensors)
    with torch.inference_mode():
        wanted = model(IDS)
        assert torch.equal(llm_blocks.load(tmp_path / "saved")(IDS), wanted)
        pieces = {name for name in tensors if ".e." in name}
        rest = {name: tensor for name, tensor in tensors.items() if name not in pieces}
        stacked = {
            f"layers.{layer}.e.{name}": getattr(model.mid[str(layer)].experts, name).detach()
            for layer in range(3)
            for name in ("gate_up", "down")
        }
        save_file(rest | stacked, tmp_path / "saved" / "model.safetensors")
        assert torch.equal(llm_blocks.load(tmp_path / "saved")(IDS), wanted)


def test_more_experts_than_tensors_are_refused_before_their_pieces_are_named(
    mixture: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^14 experts that config.json claimed in each of 64 layers took 90 seconds and 2 GB to be called missing."""
    llm_blocks.save(llm_blocks.new_model(mixture.Config()), tmp_path / "saved")

    class Block(mixture.Block):
        def __init__(self, c: Any, layer: int) -> None:
            super().__init__(c, layer)
            self.experts = Experts(2**14, c.dim, 4)

    monkeypatch.setattr(mixture, "Block", Block)
    monkeypatch.setattr(Experts, "pieces", lambda _: pytest.fail("pieces were named"))
    with pytest.raises(WeightsError, match="holds 33 tensors, too few for the 147456 of experts alone"):
        llm_blocks.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: {k: v for k, v in t.items() if "1.e.1.up" not in k}, r"lacks .*mid\.1\.experts\.1\.up\.weight"),
        (
            lambda t: t | {"layers.0.e.0.down.weight": torch.zeros(3, 8)},
            r"mid\.0\.experts\.0\.down\.weight\) has shape \(3, 8\), config\.json asks for \(16, 8\)",
        ),
        (lambda t: t | {"layers.0.e.2.up.weight": torch.zeros(8, 16)}, r"holds .*mid\.0\.experts\.2\.up\.weight"),
        (lambda t: t | {"layers.0.e.gate_up": torch.zeros(2, 16, 16)}, r"holds .*mid\.0\.experts\.\d\.\w+\.weight"),
    ],
    ids=["missing", "shape", "one too many", "both ways"],
)
def test_wrong_experts_are_named(mixture: ModuleType, tmp_path: Path, change: Any, rule: str) -> None:
    llm_blocks.save(llm_blocks.new_model(mixture.Config()), tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(WeightsError, match=rule):
        llm_blocks.load(tmp_path / "saved")
