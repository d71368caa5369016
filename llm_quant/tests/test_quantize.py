"""Quantization of any module: what is replaced, what stays, and that nothing is lost on the way."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import llm_quant
from llm_quant import Int4, Int8, QuantizedLinear, accelerate, blocks, native, quantize, round_int4, round_int8

needs_kernels = pytest.mark.skipif(native.level() is None, reason=f"no kernels: {native.reason()}")


class Tied(nn.Module):
    """A tiny model whose head is its embedding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)
        self.inner = nn.Sequential(nn.Linear(width, 48), nn.SiLU(), nn.Linear(48, width, bias=False))
        self.head = nn.Linear(width, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.inner(x))


@pytest.fixture
def model() -> Tied:
    torch.manual_seed(0)
    return Tied().eval()


IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize(("scheme", "bits"), [("int8", 7), ("int4", 3)])
def test_logits_stay_near(model: Tied, scheme: llm_quant.Scheme, bits: int) -> None:
    with torch.no_grad():
        before = model(IDS)
        after = quantize(model, scheme, group_size=16)(IDS)
    error = (after - before).norm() / before.norm()
    assert 2**-12 < error < 2**-bits


def test_what_is_replaced_and_what_stays(model: Tied) -> None:
    embedding = model.embed.weight
    assert quantize(model, "int4", group_size=16, skip=["inner.2"]) is model
    assert isinstance(model.head, QuantizedLinear)
    assert isinstance(model.inner[0], QuantizedLinear)
    assert type(model.inner[2]) is nn.Linear
    assert model.embed.weight is embedding
    assert (model.head.kind, model.head.group_size, model.inner[0].bias is None) == ("int4", 16, False)
    assert not model.head.training
    assert "int4, group_size=16" in repr(model.head)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"scheme": "int3"}, "no scheme 'int3' of quantization; there are int8, int4"),
        ({"scheme": "int4", "group_size": 24}, r"inner\.0 has 32 inputs, which are no whole groups of 24"),
        ({"scheme": "int4", "group_size": 0}, "no whole groups of 0"),
    ],
)
def test_what_cannot_be_quantized_is_refused_before_anything_is(model: Tied, options: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        quantize(model, **options)
    assert type(model.head) is nn.Linear


def test_weights_that_are_not_there_yet(model: Tied) -> None:
    with pytest.raises(ValueError, match=r"inner\.0 has no weights yet"):
        quantize(model.to("meta"), "int8")


@pytest.mark.parametrize("rows", [1, 16, 37])
def test_blocks_give_back_the_canonical_weight(rows: int) -> None:
    torch.manual_seed(rows)
    weight = torch.randn(rows, 96)
    int8 = round_int8(weight)
    back = blocks.from_blocks(blocks.to_blocks(int8))
    assert isinstance(back, Int8)
    assert torch.equal(back.value, int8.value)
    assert torch.equal(back.scale, int8.scale)
    for group in (8, 32, 96):
        int4 = round_int4(weight, group)
        back = blocks.from_blocks(blocks.to_blocks(int4))
        assert isinstance(back, Int4)
        assert all(torch.equal(getattr(back, name), getattr(int4, name)) for name in ("value", "scale", "zero"))


def test_large_groups_are_divided(model: Tied) -> None:
    weight = round_int4(torch.randn(16, 3072), 3072)
    assert torch.equal(blocks.from_blocks(blocks.to_blocks(weight)).dequantize(), weight.dequantize())


def test_rounding_is_to_the_nearest() -> None:
    torch.manual_seed(1)
    weight = torch.randn(7, 64)
    assert ((round_int8(weight).dequantize() - weight).abs() <= round_int8(weight).scale[:, None] * 0.5001).all()
    int4 = round_int4(weight, 16)
    step = int4.scale.float().repeat_interleave(16, dim=1)
    # half a step, and at the ends another half: zero is a whole number and the scale has few bits
    assert ((int4.dequantize() - weight).abs() <= step * 1.01).all()
    assert ((int4.dequantize() - weight).abs() <= step * 0.51).float().mean() > 0.9


@pytest.mark.parametrize("row", [torch.zeros(32), torch.full((32,), 3.0), torch.full((32,), -3.0), torch.arange(32.0)])
def test_odd_rows(row: Tensor) -> None:
    weight = row[None]
    largest = row.abs().max().item()
    assert (round_int8(weight).dequantize() - weight).abs().max() <= largest / 250
    assert (round_int4(weight, 32).dequantize() - weight).abs().max() <= largest / 15
    assert round_int4(weight, 32).dequantize()[0, row == 0].eq(0).all()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("prepared", [True, False])
def test_gradients_reach_the_input(scheme: llm_quant.Scheme, prepared: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 24)
    quantized = quantize(nn.Sequential(layer), scheme, group_size=32)[0]
    if not prepared:
        quantized.unprepare()
    x = torch.randn(3, 64, requires_grad=True)
    y = quantized(x)
    y.square().sum().backward()
    again = x.detach().requires_grad_()
    plain = again @ quantized.weight.dequantize().T + layer.bias
    plain.square().sum().backward()
    torch.testing.assert_close(y, plain, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_quantized_module_is_copied_moved_and_stored_like_any(model: Tied, scheme: llm_quant.Scheme) -> None:
    quantize(model, scheme, group_size=16)
    with torch.no_grad():
        wanted = model(IDS)
        assert torch.equal(copy.deepcopy(model)(IDS), wanted)
        assert torch.equal(model.to("cpu")(IDS), wanted)
        half = copy.deepcopy(model).to(torch.bfloat16)  # only what is floating follows
        assert half.head.weight.scale.dtype == model.head.weight.scale.dtype
        torch.testing.assert_close(half(IDS).float(), wanted, rtol=0.05, atol=0.05)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    torch.manual_seed(9)
    other = quantize(Tied().eval(), scheme, group_size=16)
    other.load_state_dict(torch.load(stored, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(IDS), wanted)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("prepared", [True, False])
def test_moving_to_a_dtype_keeps_every_bit(scheme: llm_quant.Scheme, prepared: bool) -> None:
    """Scales in fp32 were rounded to bf16 by `module.to(torch.bfloat16)` and back."""
    torch.manual_seed(0)
    layer = quantize(nn.Sequential(nn.Linear(64, 40)), scheme, group_size=32)[0]
    assert isinstance(layer, QuantizedLinear)
    if not prepared:
        layer.unprepare()
    before = layer.weight.dequantize(), layer.bias
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        layer.to(dtype)
    assert torch.equal(layer.weight.dequantize(), before[0])
    assert layer.bias is not None
    assert before[1] is not None
    assert torch.equal(layer.bias, before[1])


@pytest.mark.skipif(native.level() != "avx512", reason="torch's own product is as fast without AVX-512")
def test_layers_that_use_the_kernels_are_quantized_too() -> None:
    """A model that had been accelerated stayed as it was."""
    model = accelerate(nn.Sequential(nn.Linear(32, 48)).bfloat16().requires_grad_(False))
    assert type(model[0]) is llm_quant.KernelLinear
    assert isinstance(quantize(model, "int8")[0], QuantizedLinear)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_canonical_layout_computes_the_same_by_torch(scheme: llm_quant.Scheme, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = quantize(nn.Sequential(nn.Linear(64, 40)), scheme, group_size=32)[0]
    x = torch.randn(2, 3, 64).to(dtype)
    with torch.no_grad():
        prepared = layer.prepare()(x)
        plain = layer.unprepare()(x)
    assert prepared.dtype == plain.dtype == dtype
    assert plain.shape == (2, 3, 40)
    torch.testing.assert_close(prepared, plain, rtol=2e-2, atol=2e-2)


@needs_kernels
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_torch_compile_sees_an_operator(model: Tied, scheme: llm_quant.Scheme) -> None:
    quantize(model, scheme, group_size=16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(IDS), model(IDS), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(native.level() != "avx512", reason="torch's own product is as fast without AVX-512")
def test_bf16_layers_keep_their_weights(model: Tied) -> None:
    model = model.bfloat16()
    model.head = nn.Linear(32, 48, bias=False).bfloat16()
    model.head.weight = nn.Parameter(model.embed.weight[:48].clone(), requires_grad=False)
    weight = model.head.weight
    with torch.no_grad():
        wanted = model(IDS)
        accelerate(model)
        assert type(model.head) is llm_quant.KernelLinear
        assert model.head.weight is weight
        torch.testing.assert_close(model(IDS), wanted, rtol=0.02, atol=0.02)
        torch.testing.assert_close(model(IDS[:, :3]), wanted[:, :3], rtol=0.02, atol=0.02)
    model.inner[0].weight.requires_grad_()
    model(IDS[:, :1]).float().sum().backward()
    assert model.inner[0].weight.grad is not None
