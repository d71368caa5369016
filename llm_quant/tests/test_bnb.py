"""The formats of bitsandbytes against what their papers say, spelled out in torch, and against bitsandbytes' layers."""

import copy
import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_quant import bnb, quantize
from llm_quant.bnb import Bit4Linear, Bit8Linear, BnbLinear, four, library, round_bit4, round_bit8

if find_spec("bitsandbytes") is None:
    pytest.skip("bitsandbytes, the extra bnb, is not installed", allow_module_level=True)

# QLoRA (arXiv 2305.14314), appendix E
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635)
NF4 += (-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725)
NF4 += (0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
# a sign, two bits of exponent and one of mantissa, the largest of which is 1
FP4 = tuple(sign * x / 12 for sign in (1, -1) for x in (0, 0.0625, 8, 12, 4, 6, 2, 3))
TABLES = {"nf4": torch.tensor(NF4), "fp4": torch.tensor(FP4)}
SHAPES = [(24, 64), (16, 128), (24, 48), (10, 96), (7, 33), (1, 2), (5, 448)]
FOUR = [scheme for scheme in bnb.SCHEMES if scheme != "bnb.int8"]


def drawn(n: int, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(n * k)).to(dtype)


def nearest(weight: Tensor, table: Tensor) -> Tensor:
    """Block by block of 64 numbers, the nearest of the table times the largest."""
    blocks = weight.float().reshape(-1).split(64)
    found = []
    for block in blocks:
        scale = block.abs().max()
        found.append(table[(block[:, None] / scale - table).abs().argmin(dim=1)] * scale)
    return torch.cat(found).view(weight.shape)


def unpacked(weight: four.Bit4) -> Tensor:
    """The weight by its definition, with whatever scales it has."""
    n, k = weight.shape
    numbers = torch.stack([weight.value >> 4, weight.value & 15], dim=1).reshape(-1)[: n * k]
    scales = weight.absmax
    if weight.nested is not None:
        deeper = weight.nested.absmax.repeat_interleave(256)[: len(scales)]
        scales = weight.nested.code[scales.long()] * deeper + weight.nested.offset
    return (TABLES[weight.code][numbers.long()] * scales.repeat_interleave(64)[: n * k]).view(n, k)


@pytest.fixture(params=[2**24, 64], ids=["whole", "in pieces"])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(four, "PIECE", request.param)
    return request.param


@pytest.mark.parametrize("code", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_four_bits_are_the_nearest_of_the_table(
    code: four.Code, shape: tuple[int, int], dtype: torch.dtype, piece: int
) -> None:
    """Also where rows are no whole blocks, which bitsandbytes 0.50 reads wrongly on a CPU."""
    weight = drawn(*shape, dtype)
    rounded = round_bit4(weight, code)
    wanted = unpacked(rounded)
    errors = [(one - weight.float()).abs() for one in (wanted, nearest(weight, TABLES[code]))]
    torch.testing.assert_close(*errors, rtol=1e-6, atol=1e-6)  # two may be equally near
    layer = Bit4Linear(rounded)
    torch.testing.assert_close(layer.dequantize(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(layer.dequantize(torch.bfloat16), wanted.bfloat16(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("code", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [*SHAPES, (300, 448)])
def test_double_quantization_changes_the_scales_a_little(code: four.Code, shape: tuple[int, int], piece: int) -> None:
    weight = drawn(*shape)
    plain, double = round_bit4(weight, code), round_bit4(weight, code, nested=True)
    assert torch.equal(plain.value, double.value)
    assert double.absmax.dtype == torch.uint8
    torch.testing.assert_close(Bit4Linear(double).dequantize(), unpacked(double), rtol=1e-6, atol=1e-6)
    spread = (plain.absmax - plain.absmax.mean()).abs().max()
    assert ((double.scales() - plain.scales()).abs() <= 0.02 * spread + 1e-6).all()


@pytest.mark.parametrize("scheme", FOUR)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float64, 1e-6)])
def test_a_layer_multiplies_by_its_weight(
    scheme: bnb.Scheme, shape: tuple[int, int], dtype: torch.dtype, near: float, piece: int
) -> None:
    n, k = shape
    torch.manual_seed(0)
    linear = nn.Linear(k, n)
    layer = bnb.quantized(linear, scheme)
    x = torch.randn(2, 3, k).to(dtype)
    wanted = F.linear(x.float(), layer.dequantize(), linear.bias.detach())
    y = layer(x)
    assert (y.dtype, y.shape, layer.kind) == (dtype, (2, 3, n), scheme)
    assert (y.float() - wanted).norm() <= near * wanted.norm()
    assert layer(x[:, :0]).shape == (2, 0, n)


@pytest.mark.parametrize("scheme", bnb.SCHEMES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_input(scheme: bnb.Scheme, training: bool, dtype: torch.dtype, piece: int) -> None:
    torch.manual_seed(0)
    model = quantize(nn.Sequential(nn.Linear(48, 200)), scheme).train(training)
    layer = model[0]
    assert isinstance(layer, BnbLinear)
    assert not list(model.parameters())
    source = torch.randn(3, 4, 48).to(dtype).requires_grad_()
    grad = torch.randn(3, 4, 200).to(dtype)
    layer(source * 1).backward(grad)  # as where x comes from another layer
    assert source.grad is not None
    torch.testing.assert_close(source.grad.float(), grad.float() @ layer.dequantize(), rtol=2e-2, atol=2e-2)
    if dtype == torch.float32:
        torch.testing.assert_close(source.grad, grad @ layer.dequantize(), rtol=1e-5, atol=1e-5)


def by_hand(x: Tensor, linear: nn.Linear) -> Tensor:
    """LLM.int8() (arXiv 2208.07339) in float64, for several rows of x (M, K)."""
    weight, half = linear.weight.half().double(), x.half().double()
    scale = weight.abs().amax(dim=1, keepdim=True)
    whole = (weight * 127 / scale).round()
    large = (half.abs() >= 6).any(dim=0)
    small = half.masked_fill(half.abs() >= 6, 0)
    stats = small.abs().amax(dim=1, keepdim=True)
    rounded = (small * 127 / stats).round().masked_fill(large, 0)
    y = (rounded @ whole.T) * stats * scale.T / 127**2
    return y + x.double()[:, large] @ (whole * scale / 127)[:, large].T + linear.bias.double()


@pytest.mark.parametrize("shape", [(24, 64), (10, 96), (7, 33)])
@pytest.mark.parametrize("outliers", [0, 2])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 3e-3), (torch.float16, 3e-3), (torch.bfloat16, 1e-2)])
def test_int8_is_that_of_the_paper(shape: tuple[int, int], outliers: int, dtype: torch.dtype, near: float) -> None:
    n, k = shape
    torch.manual_seed(0)
    linear = nn.Linear(k, n)
    x = torch.randn(5, k).clamp(-3, 3).to(dtype)
    x[:outliers, k // 2] = 40
    before = x.clone()
    with torch.no_grad():
        y, wanted = bnb.quantized(linear, "bnb.int8")(x), by_hand(x, linear)
    assert torch.equal(x, before)
    assert y.dtype == dtype
    assert (y - wanted).norm() <= near * wanted.norm()
    whole = linear(x.float())
    assert (y - whole).norm() <= 0.02 * whole.norm()  # 40 rounded to int8 with the others would cost more


def test_int8_of_zeros_and_of_nothing() -> None:
    linear = nn.Linear(32, 8, bias=False)
    with torch.no_grad():
        linear.weight[3] = 0
    layer = bnb.quantized(linear, "bnb.int8")
    x = torch.randn(4, 32)
    x[1] = 0
    y = layer(x)
    assert y[1].eq(0).all()
    assert y[:, 3].eq(0).all()
    assert y.isfinite().all()
    assert layer(x[:0]).shape == (0, 8)
    assert layer.dequantize()[3].eq(0).all()


def test_int8_rows_are_rounded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn(10, 96)
    wanted = round_bit8(weight)
    monkeypatch.setattr("llm_quant.bnb.eight.PIECE", 200)
    found = round_bit8(weight)
    assert torch.equal(found.value, wanted.value)
    assert torch.equal(found.scale, wanted.scale)


@pytest.mark.parametrize("scheme", FOUR)
def test_it_is_what_bitsandbytes_own_layer_computes(scheme: bnb.Scheme) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 96)
    nested, code = scheme.endswith("-dq"), scheme[4:7]
    theirs = library.library().nn.Linear4bit(128, 96, compress_statistics=nested, quant_type=code)
    theirs.load_state_dict(linear.state_dict())
    theirs.to("cpu").train()  # in evaluation it rounds to bf16 on some processors
    x = torch.randn(4, 128)
    ours = bnb.quantized(linear, scheme)
    assert isinstance(ours, Bit4Linear)
    assert torch.equal(ours.value, theirs.weight.data.view(-1))
    if nested:  # of a thousand scales it rounds one to a neighbour of the nearest, which is taken over here
        ours.absmax = theirs.weight.quant_state.absmax
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    fused = four._fused(x, ours.weight, ours.bias)  # which layers on CUDA take
    torch.testing.assert_close(fused, theirs(x), rtol=1e-5, atol=1e-5)


def test_int8_is_what_bitsandbytes_own_layer_computes() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 96)
    theirs = library.library().nn.Linear8bitLt(128, 96, has_fp16_weights=False, threshold=6.0)
    theirs.load_state_dict(linear.state_dict())
    theirs = theirs.to("cpu").eval()
    x = torch.randn(4, 128).half()
    x[1, 5] = 30
    assert torch.equal(bnb.quantized(linear, "bnb.int8")(x), theirs(x))


class Tied(nn.Module):
    """A tiny model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 64)
        self.inner = nn.Sequential(nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64, bias=False))
        self.head = nn.Linear(64, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.inner(x))


IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize("scheme", bnb.SCHEMES)
def test_what_is_replaced_and_what_stays(scheme: bnb.Scheme) -> None:
    model = Tied().eval()
    embedding = model.embed.weight
    assert quantize(model, scheme, skip=["inner.2"]) is model
    kind = Bit8Linear if scheme == "bnb.int8" else Bit4Linear
    assert isinstance(model.head, kind)
    assert isinstance(model.inner[0], kind)
    assert type(model.inner[2]) is nn.Linear
    assert model.embed.weight is embedding
    assert not model.head.training
    assert f"bias=True, {scheme})" in repr(model.inner[0])


@pytest.mark.parametrize(
    ("scheme", "most"),  # bytes of a weight: its own, those of its scales, and a table of 256 numbers
    [("bnb.nf4", 0.5625), ("bnb.fp4", 0.5625), ("bnb.nf4-dq", 0.517), ("bnb.fp4-dq", 0.517), ("bnb.int8", 1.01)],
)
def test_the_bytes_that_are_held(scheme: bnb.Scheme, most: float) -> None:
    model = quantize(nn.Sequential(nn.Linear(1024, 1024, bias=False)), scheme)
    with torch.no_grad():
        model(torch.randn(2, 1024))  # nothing is added by computing
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in model.buffers()}
    held = sum(storage.nbytes() for storage in storages.values())
    assert not list(model.parameters())
    assert held <= most * 1024**2


@pytest.mark.parametrize("scheme", bnb.SCHEMES)
def test_a_layer_is_copied_moved_stored_and_compiled_like_any(scheme: bnb.Scheme) -> None:
    torch.manual_seed(0)
    model = quantize(Tied().eval(), scheme)
    with torch.no_grad():
        wanted = model(IDS)
        assert torch.equal(copy.deepcopy(model)(IDS), wanted)
        half = copy.deepcopy(model).to(torch.bfloat16)
        assert all(torch.equal(a, b) for a, b in zip(half.buffers(), model.buffers(), strict=True))
        assert half(IDS).dtype == torch.bfloat16
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(IDS), wanted, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(model(IDS), wanted)
    stored = io.BytesIO()
    torch.save(model.state_dict(), stored)
    stored.seek(0)
    torch.manual_seed(9)
    other = quantize(Tied().eval(), scheme)
    other.load_state_dict(torch.load(stored, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(IDS), wanted)


def test_importing_bitsandbytes_fetches_and_says_nothing(tmp_path: Path) -> None:
    """With AVX-512 BF16 the import of 0.50 asks the package `kernels` for code from the hub, or warns without it."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*args, **kwargs):\n    raise SystemExit('code was fetched')\n")
    code = "from llm_quant.bnb import library; library.library(); import kernels; print(kernels.get_kernel)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    assert "get_kernel" in done.stdout
