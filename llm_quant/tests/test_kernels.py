"""Each kernel against float64, on every level of instructions that this processor has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_quant import Int4, Int8, KernelLinear, blocks, kernel_linear, native, round_int4, round_int8

ROUNDED = 2**-16  # of the largest of a row of x, of which the kernels keep so many bits
BF16 = 2**-8


def activations(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Some columns are a hundred times as large as others, as those of real models are."""
    return (torch.randn(rows, columns) * 10 ** (2 * torch.rand(columns))).to(dtype)


def check(found: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, rounding: float = ROUNDED) -> None:
    """Within the error that rounding x may cause, in fp32 sums, and that of the result's own dtype."""
    wanted = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    sizes = x.double().abs().amax(dim=1, keepdim=True) * weight.double().abs().sum(dim=1)
    allowed = rounding * sizes + 2**-20 * sizes
    if found.dtype == torch.bfloat16:
        allowed += BF16 * wanted.abs()
    assert found.shape == wanted.shape
    worst = ((found.double() - wanted).abs() / allowed).max()
    assert worst <= 1, f"{worst:.2f} times the allowed error"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 16])
def test_int8(level: str, rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    for outputs, inputs in ((16, 4), (48, 64), (37, 100), (1, 516), (130, 260)):
        weight, bias = round_int8(torch.randn(outputs, inputs)), torch.randn(outputs)
        x = activations(rows, inputs, dtype)
        check(blocks.linear(x, blocks.to_blocks(weight), bias), x, weight.dequantize(), bias)


@pytest.mark.parametrize("scales", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 16])
def test_int4(level: str, rows: int, dtype: torch.dtype, scales: torch.dtype) -> None:
    torch.manual_seed(rows)
    for outputs, inputs, group in ((16, 8, 8), (48, 64, 32), (37, 120, 40), (1, 512, 128), (33, 4096, 4096)):
        weight, bias = round_int4(torch.randn(outputs, inputs) + 0.3, group, dtype=scales), torch.randn(outputs)
        x = activations(rows, inputs, dtype)
        check(blocks.linear(x, blocks.to_blocks(weight), bias), x, weight.dequantize(), bias)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8])
def test_bf16(level: str, rows: int) -> None:
    torch.manual_seed(rows)
    for outputs, inputs in ((16, 1), (16, 31), (32, 32), (48, 77), (16, 1000)):
        weight, x = torch.randn(outputs, inputs).bfloat16(), activations(rows, inputs, torch.bfloat16)
        bias = torch.randn(outputs)
        found = native.linear(x, weight, kind=native.BF16, n=outputs, group=inputs, bias=bias)
        check(found, x, weight, bias, rounding=0)


@pytest.mark.parametrize("rows", [9, 16, 17, 31, 63, 64, 65, 81, 130, 520])
def test_many_rows_of_bf16(level: str, rows: int) -> None:
    """For each number of panels, and of weights that are left for the last tile."""
    torch.manual_seed(rows)
    for outputs, inputs in ((16, 2), (16, 33), (16, 34), (32, 32), (48, 78), (80, 1000), (128, 66)):
        weight, x = torch.randn(outputs, inputs).bfloat16(), activations(rows, inputs, torch.bfloat16)
        bias = torch.randn(outputs)
        found = native.linear(x, weight, kind=native.BF16, n=outputs, group=inputs, bias=bias)
        check(found, x, weight, bias, rounding=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_others(level: str, dtype: torch.dtype) -> None:
    """Alone, among few and among many: sums of whole numbers are exact, and fp32 is added up in one order."""
    torch.manual_seed(0)
    weight, x = torch.randn(117, 264), activations(521, 264, dtype)
    for canonical in (round_int8(weight), round_int4(weight, 24), round_int4(weight, 88, dtype=torch.float16)):
        b, bias = blocks.to_blocks(canonical), torch.randn(117)

        def product(x: torch.Tensor, b: blocks.Blocks = b, bias: torch.Tensor = bias) -> torch.Tensor:
            return native.linear(x, b.weight, kind=b.kind, n=117, group=b.group, scale=b.scale, zero=b.zero, bias=bias)

        found = product(x)
        check(found, x, canonical.dequantize(), bias)
        for rows in (slice(1), slice(3, 7), slice(6, 15), slice(100, 163), slice(510, 521)):
            assert torch.equal(product(x[rows].contiguous()), found[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_rows_go_through_expanded_weights(level: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several tiles, the last of which is smaller and ends within a block."""
    monkeypatch.setattr(native, "takes_many", lambda: False)
    monkeypatch.setattr(blocks, "TILE_BYTES", 48 * 264 * dtype.itemsize)
    torch.manual_seed(0)
    weight = torch.randn(117, 264)
    for canonical in (round_int8(weight), round_int4(weight, 24), round_int4(weight, 88, dtype=torch.float16)):
        x, bias = torch.randn(40, 264).to(dtype), torch.randn(117).to(dtype).float()
        found = blocks.linear(x, blocks.to_blocks(canonical), bias)
        expanded = canonical.dequantize(dtype)  # to whose dtype they are rounded
        check(found, x, expanded, bias, rounding=2**-20)


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 70),
    groups=st.integers(1, 5),
    group=st.sampled_from([8, 16, 24, 32, 64, 128]),
    rows=st.integers(1, 18),
    seed=st.integers(0, 2**31),
)
def test_any_shape_on_every_level(
    levels: list[str], outputs: int, groups: int, group: int, rows: int, seed: int
) -> None:
    torch.manual_seed(seed)
    plain = torch.randn(outputs, groups * group)
    x = activations(rows, groups * group, torch.float32)
    for name in levels:
        native.choose(name)
        for weight in (round_int8(plain), round_int4(plain, group)):
            check(blocks.linear(x, blocks.to_blocks(weight), None), x, weight.dequantize())


def test_extremes_of_the_whole_numbers(level: str) -> None:
    """The largest sums that the kernels can meet, of either sign."""
    inputs = 1024
    for sign in (1.0, -1.0):
        x = torch.full((2, inputs), sign)
        int8 = Int8(value=torch.full((16, inputs), 127, dtype=torch.int8), scale=torch.ones(16))
        check(blocks.linear(x, blocks.to_blocks(int8), None), x, int8.dequantize())
        for value, zero in ((0xFF, 0), (0, 15), (0, 16)):
            int4 = Int4(
                value=torch.full((16, inputs // 2), value, dtype=torch.uint8),
                scale=torch.ones(16, 1, dtype=torch.bfloat16),
                zero=torch.full((16, 1), zero, dtype=torch.uint8),
            )
            check(blocks.linear(x, blocks.to_blocks(int4), None), x, int4.dequantize())


def test_zeros_and_what_is_no_number(level: str) -> None:
    weight = blocks.to_blocks(round_int4(torch.randn(20, 64), 32))
    x = torch.randn(5, 64)
    x[1], x[2, 3], x[3, 5], x[4] = 0, float("nan"), float("-inf"), x[4] * 1e-37
    found = blocks.linear(x, weight, None)
    assert found[0].isfinite().all()
    assert found[1].eq(0).all()
    assert found[2:4].isnan().all()
    assert found[4].abs().max() < 1e-30


def test_a_row_is_the_same_among_others(level: str) -> None:
    """So speculation, which reads several tokens at once, gives the products of one by one."""
    torch.manual_seed(3)
    x = activations(16, 256, torch.bfloat16)
    plain = torch.randn(48, 256)
    for weight in (round_int8(plain), round_int4(plain, 64)):
        packed = blocks.to_blocks(weight)
        alone = torch.cat([blocks.linear(row[None], packed, None) for row in x])
        assert torch.equal(blocks.linear(x, packed, None), alone)
    bf16 = plain.bfloat16()
    product = [native.linear(part, bf16, kind=native.BF16, n=48, group=256) for part in (x, *x.split(1))]
    assert torch.equal(product[0], torch.cat(product[1:]))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_work(level: str, threads: int) -> None:
    weight = torch.randn(1000, 512)
    packed, x = blocks.to_blocks(round_int4(weight, 64)), torch.randn(3, 512)
    before = torch.get_num_threads()
    wanted = blocks.linear(x, packed, None)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(blocks.linear(x, packed, None), wanted)
    finally:
        torch.set_num_threads(before)


def test_an_unknown_level_is_refused() -> None:
    if native.level() is None:
        pytest.skip(f"there are no kernels here: {native.reason()}")
    with pytest.raises(ValueError, match=f"no level 'sse9' of kernels; there are {', '.join(native.LEVELS)}"):
        native.choose("sse9")


@pytest.mark.parametrize("rows", [4, 9])
def test_a_layer_that_reads_by_the_kernels_compiles_whole_and_lets_its_bias_learn(rows: int) -> None:
    torch.manual_seed(0)
    layer = KernelLinear(64, 32).bfloat16().requires_grad_(False)
    x = torch.randn(rows, 64).bfloat16()
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), layer(x), rtol=2**-7, atol=2**-7)
    layer.bias.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.bias.grad is not None


@pytest.mark.parametrize("n", [1, 11, 16, 48])
@pytest.mark.parametrize("rows", [1, 40])
def test_a_product_with_a_weight_of_any_height(n: int, rows: int) -> None:
    """Heights that the kernels don't take are torch's, and nothing lies beyond the result."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 64).bfloat16(), torch.randn(n, 64).bfloat16(), torch.randn(n).bfloat16()
    y = kernel_linear(x, weight, bias)
    torch.testing.assert_close(y.float(), x.float() @ weight.float().T + bias.float(), rtol=2**-7, atol=2**-5)
