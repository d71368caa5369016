"""int4 in tiles for CUDA. Where there is none, the operators' twins for the CPU stand in, which have the same scales
and offsets in the same layout; only the order of the nibbles and the tiles themselves differ."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llm_quant import Int4, QuantizedLinear, linear, quantize, round_int4, tiles

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Layers there are put in tiles, on a CPU too."""
    if request.param == "cpu":
        monkeypatch.setattr(linear.native, "level", lambda: None)
        monkeypatch.setattr(tiles, "usable", tiles.fits)
    return request.param


def _weight(rows: int, columns: int, group: int, device: str = "cpu") -> Int4:
    """Every nibble and every zero, also the 16 that some files have."""
    value = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8, device=device)
    scale = torch.rand(rows, columns // group, device=device).add(0.1).to(torch.bfloat16)
    return Int4(value=value, scale=scale, zero=torch.randint(0, 17, scale.shape, device=device).to(torch.uint8))


def _same(a: Int4, b: Int4) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("value", "scale", "zero"))


@pytest.mark.parametrize(("rows", "columns", "group"), [(16, 32, 32), (48, 1088, 64), (32, 256, 128), (64, 768, 256)])
def test_products_are_those_of_the_weights_and_these_come_back(
    rows: int, columns: int, group: int, device: str
) -> None:
    weight = _weight(rows, columns, group, device)
    bias = torch.randn(rows, device=device)
    layer = QuantizedLinear(weight, bias).prepare()
    assert "tiles" in repr(layer)
    assert layer.value.nbytes == weight.value.nbytes, "nibbles are held once"
    x = torch.randn(2, 3, columns, device=device).to(torch.bfloat16)
    scale = weight.scale.double().repeat_interleave(group, dim=1)
    wanted = x.double() @ weight.dequantize(torch.float64).T
    rounded = 2.0**-8 * (8 * x.double().abs() @ scale.T)  # offsets, and products, in bf16
    off = (layer(x).double() - (wanted + bias.double())).abs()
    assert (off <= rounded + 2.0**-8 * (wanted.abs() + bias.abs()) + 1e-3).all()
    assert _same(layer.weight, weight)
    assert _same(layer.unprepare().weight, weight)
    assert layer.tile_scales is None


def test_offsets_are_exact_where_the_zero_is_eight(device: str) -> None:
    """Then nothing of the weights is rounded: whole numbers of x give the product exactly."""
    weight = _weight(16, 64, 32, device)
    weight.zero.fill_(8)
    weight.scale.fill_(0.5)
    x = torch.eye(64, dtype=torch.bfloat16, device=device)
    layer = QuantizedLinear(weight).prepare()
    assert torch.equal(layer(x), weight.dequantize(torch.bfloat16).T)


def test_an_offset_is_within_a_32nd_of_the_scale() -> None:
    weight = _weight(64, 512, 32)
    scale, offset = tiles.scales_and_zeros(weight).float().transpose(0, 1).unbind(2)  # (N, G)
    assert torch.equal(scale, weight.scale.float())
    assert ((offset - (8 - weight.zero.float()) * scale).abs() <= scale / 32).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_go_in_and_come_out(dtype: torch.dtype, device: str) -> None:
    layer = QuantizedLinear(_weight(16, 64, 32, device)).prepare()
    x = torch.randn(2, 64, device=device).to(torch.bfloat16)
    assert torch.equal(layer(x.to(dtype)), layer(x).to(dtype))


def test_gradients_reach_x(device: str) -> None:
    weight = _weight(16, 64, 32, device)
    x = torch.randn(2, 64, device=device, requires_grad=True)
    QuantizedLinear(weight).prepare()(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, weight.dequantize().sum(0).expand(2, -1))


def test_a_module_is_put_in_tiles_and_survives_a_move(device: str) -> None:
    module = nn.Sequential(nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 48, bias=False)).to(device)
    weights = [round_int4(module[i].weight.detach(), 32) for i in (0, 2)]  # type: ignore[arg-type]
    quantize(module, "int4", group_size=32)
    layers = [module[0], module[2]]
    assert all("tiles" in repr(layer) for layer in layers)
    x = torch.randn(3, 64, device=device)
    before = module(x)
    module.to("cpu", torch.bfloat16).to(device)
    torch.testing.assert_close(module(x), before, rtol=1e-2, atol=1e-2)
    for layer, weight in zip(layers, weights, strict=True):
        assert isinstance(layer, QuantizedLinear)
        assert _same(layer.weight, weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "columns", "group"), [(12, 64, 32), (16, 48, 48), (16, 64, 16), (16, 1024, 512)])
def test_what_the_layout_cannot_hold_stays_canonical(rows: int, columns: int, group: int) -> None:
    assert not tiles.fits(_weight(rows, columns, group))


def test_the_nibbles_are_in_the_order_of_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """For CUDA it takes bytes with the even column in the high nibble (torch's own tests make them so)."""
    weight, seen = _weight(16, 128, 32), list[Tensor]()

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda")  # type: ignore[assignment]

    def convert(value: Tensor, depth: int) -> Tensor:
        seen.append(value)
        assert depth == 8
        return value

    monkeypatch.setattr(tiles.torch.ops.aten, "_convert_weight_to_int4pack", convert)
    tiles.to_tiles(weight.value.as_subclass(Elsewhere))
    whole = (weight.dequantize() / weight.scale.float().repeat_interleave(32, 1)).round()
    whole = (whole + weight.zero.float().repeat_interleave(32, 1)).to(torch.uint8)
    assert torch.equal(seen[0].as_subclass(Tensor), (whole[:, ::2] << 4) | whole[:, 1::2])


def test_the_operators_take_these_shapes() -> None:
    """As torch itself describes them, without a device."""
    with FakeTensorMode():
        value = torch.empty(16, 64, dtype=torch.uint8, device="cuda")
        packed = tiles.to_tiles(value)
        scales = torch.empty(4, 16, 2, dtype=torch.bfloat16, device="cuda")
        assert (packed.shape, packed.nbytes) == ((2, 1, 32, 4), value.nbytes)
        x = torch.empty(3, 128, dtype=torch.bfloat16, device="cuda")
        assert tiles.linear(x, packed, scales, 32).shape == (3, 16)
