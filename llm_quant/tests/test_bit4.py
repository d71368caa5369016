"""nf4 and fp4 by the kernels of every level and by torch: the same bits, which are bitsandbytes'; and what is made of
them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llm_quant import bnb, native, quantize
from llm_quant.bnb import Bit4, Bit4Linear, by_kernels, four, library, round_bit4
from llm_quant.bnb.nested import round_nested
from llm_quant.program import Program
from llm_quant.recording import record

CODES: tuple[four.Code, ...] = ("nf4", "fp4")


@contextmanager
def served_by(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if name == "torch":
            patch.setattr(by_kernels, "serve", lambda x: False)
        else:
            native.choose(name)
        yield
    if native.level() is not None:
        native.choose(None)


@pytest.fixture(params=["torch", *native.LEVELS])
def by(request: pytest.FixtureRequest, levels: list[str]) -> Iterator[str]:
    if request.param not in ("torch", *levels):
        pytest.skip(f"no {request.param} kernels on this machine")
    with served_by(request.param):
        yield request.param


def numbers(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of many sizes, with a group of zeros, one of tiny ones and bounds between two of the table."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 0.02
    x[64:128] = 0
    x[128:192] *= 1e-38
    table = torch.tensor(four.TABLES["nf4"])
    if count >= 256:
        x[192:207], x[207] = (table[1:] + table[:-1]) / 2, 1
    return x.to(dtype)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes, the extra bnb, is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("count", [64, 4096 * 3 + 64])
def test_they_are_rounded_and_made_whole_to_the_bits_of_bitsandbytes(
    by: str, code: four.Code, count: int, dtype: torch.dtype
) -> None:
    functional = library.library().functional
    x = numbers(count, dtype).view(-1, 64)
    value, state = functional.quantize_4bit(x, quant_type=code)
    ours = round_bit4(x, code)
    assert torch.equal(ours.value, value.view(-1))
    assert torch.equal(ours.absmax, state.absmax.float())
    state.shape, state.dtype = x.shape, dtype
    assert torch.equal(Bit4Linear(ours).dequantize(dtype), functional.dequantize_4bit(value, state))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 300), seed=st.integers(0, 99), code=st.sampled_from(CODES))
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_shape_has_the_same_bits_everywhere(
    levels: list[str], n: int, k: int, seed: int, code: four.Code, nested: bool, dtype: torch.dtype
) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(seed)).to(dtype)
    found: list[tuple[str, Bit4, Tensor]] = []
    for name in ("torch", *levels):
        with served_by(name), pytest.MonkeyPatch.context() as patch:
            patch.setattr(four, "EXPANDED", 64 * 64)  # several pieces
            rounded = round_bit4(weight, code, nested=nested)
            rows = torch.cat([rows.clone() for rows in rounded.rows(dtype)])
            assert torch.equal(rows, Bit4Linear(rounded).dequantize(dtype)), name
        found.append((name, rounded, rows))
    for name, rounded, rows in found[1:]:
        assert torch.equal(rounded.value, found[0][1].value), name
        assert torch.equal(rounded.absmax, found[0][1].absmax), name
        assert torch.equal(rows, found[0][2]), name


def test_the_8_bits_of_a_scale_are_the_nearest() -> None:
    """At least as near as those of bitsandbytes, which on the CPU takes a neighbour for one in a thousand."""
    scales = torch.rand(256 * 9 + 7, generator=torch.Generator().manual_seed(0)) + 0.01
    value, nested = round_nested(scales)
    left = scales - nested.offset
    size = nested.absmax.repeat_interleave(256)[: len(scales)]
    nearest = (left[:, None] / size[:, None] - nested.code).abs().amin(dim=1)
    torch.testing.assert_close((nested.scales(value) - scales).abs(), nearest * size, rtol=0, atol=1e-6)
    if find_spec("bitsandbytes") is not None:
        functional = library.library().functional
        assert torch.equal(nested.code, torch.as_tensor(functional.create_dynamic_map()))
        assert (functional.quantize_blockwise(left, blocksize=256)[0] == value).float().mean() > 0.99


def test_scales_that_are_one_number_stay_it() -> None:
    value, nested = round_nested(torch.full((300,), 0.25))
    assert torch.equal(nested.scales(value), torch.full((300,), 0.25))


@pytest.mark.skipif(native.level() not in native.BIT4_LEVELS, reason="no products of nf4 by the kernels here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["nf4", "fp4", "nf4-dq"])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_a_product_of_few_rows(dtype: torch.dtype, scheme: str, m: int) -> None:
    """Near the sums in double precision, for any number of outputs."""
    torch.manual_seed(m)
    x = torch.randn(m, 192).to(dtype)
    for n in (1, 15, 16, 100):
        linear = nn.Linear(192, n)
        layer = bnb.quantized(linear, f"bnb.{scheme}")
        weight = layer.dequantize().double()
        for bias in (linear.bias.detach().to(dtype), None):
            wanted = x.double() @ weight.T + (0 if bias is None else bias.double())
            size = x.double().abs() @ weight.abs().T
            found = layer.times(x, bias)
            assert found.dtype == dtype
            rounding = 2**-8 * wanted.abs() if dtype == torch.bfloat16 else 0
            # of a number in the table two parts in bf16 are taken; for more rows numbers times their scale, in bf16
            near = size * (2**-21 if dtype == torch.float32 else 2**-16 if m <= by_kernels.FEW else 2**-8) + rounding
            assert ((found.double() - wanted).abs() <= near).all(), n


@pytest.mark.skipif(native.level() not in native.BIT4_LEVELS, reason="no products of nf4 by the kernels here")
@pytest.mark.parametrize("scheme", ["bnb.nf4", "bnb.nf4-dq", "bnb.fp4"])
@torch.inference_mode()
def test_products_are_recorded(scheme: bnb.Scheme) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.Linear(512, 128)).to(torch.bfloat16).requires_grad_(False)
    quantize(model, scheme)
    x = torch.randn(1, 256).to(torch.bfloat16)
    result, program = record(lambda: model(x), [x])
    assert isinstance(program, Program), program
    assert torch.equal(result, model(x))
    for seed in range(3):
        x.copy_(torch.randn(1, 256, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(program.run([0], [1]), model(x))


def test_nf4_needs_no_bitsandbytes() -> None:
    """Rounded, multiplied, learnt through and made whole without importing it, on whatever level there is."""
    code = """
import sys, torch
from torch import nn
import llm_quant
for scheme in ("bnb.nf4", "bnb.fp4-dq"):
    model = llm_quant.quantize(nn.Sequential(nn.Linear(128, 64)), scheme)
    for rows in (1, 20):
        x = torch.randn(rows, 128, requires_grad=True)
        model(x).sum().backward()
        model(x.detach())
    model[0].dequantize(torch.float16)
assert not any(name.split(".")[0] == "bitsandbytes" for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
