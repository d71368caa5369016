"""Stored layers against readers that are spelled out number by number, and round trips."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_quant import Int4, Int8, QuantizedLinear, blocks, round_int4, round_int8
from llm_quant.formats import Awq, CompressedTensors, Format, Gptq, Layer, parse

INT4 = {"bits": 4, "group_size": 16}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's order_map: which of eight outputs lies in each nibble


def words(numbers: Tensor, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Numbers of 0 to 15 (R, C), eight of a row in an int32, one by one: (R, C / 8)."""
    packed = torch.zeros(numbers.size(0), numbers.size(1) // 8, dtype=torch.int64)
    for place, column in enumerate(order):
        packed |= numbers[:, column::8].long() << (4 * place)
    return packed.where(packed < 2**31, packed - 2**32).int()


def gptq(value: Tensor, scale: Tensor, zero: Tensor, *, less: int) -> dict[str, Tensor]:
    """The tensors of a layer whose numbers (N, K), scales (N, G) and zeros (N, G) are given."""
    return {"qweight": words(value).t(), "qzeros": words(zero.t() - less), "scales": scale.t()}


def drawn(n: int = 24, k: int = 48, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * k)
    value = torch.randint(0, 16, (n, k), generator=generator)
    zero = torch.randint(1, 16, (n, groups), generator=generator)
    return value, torch.rand(n, groups, generator=generator).half() + 0.5, zero


def wanted(value: Tensor, scale: Tensor, zero: Tensor, groups_of: Tensor) -> Tensor:
    """scale * (value - zero) by the group of each column."""
    return scale.float()[:, groups_of] * (value - zero[:, groups_of]).float()


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def agree(form: Format, tensors: dict[str, Tensor], n: int, k: int) -> None:
    """The tensors are what the format says they are."""
    for name, entry in form.entries(n, k).items():
        if name in tensors or not entry.optional:
            assert tuple(tensors[name].shape) == entry.shape, name
            assert tensors[name].dtype in entry.dtypes, name


def same(a: object, b: object) -> bool:
    """Whether two canonical weights are equal byte by byte."""
    names = ("value", "scale", "zero") if isinstance(a, Int4) else ("value", "scale")
    pairs = [(getattr(a, name), getattr(b, name)) for name in names]
    return type(a) is type(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("version", "less"), [("gptq", 1), ("gptq_v2", 0)])
def test_gptq(version: str, less: int) -> None:
    value, scale, zero = drawn()
    form = parse({"quant_method": "gptq", "checkpoint_format": version, "desc_act": False, "sym": False, **INT4})
    tensors = contiguous(gptq(value, scale, zero, less=less))
    agree(form, tensors, 24, 48)
    layer = form.decode(tensors, 24, 48)
    assert layer.order is None
    assert torch.equal(layer.weight.dequantize(), wanted(value, scale, zero, torch.arange(48) // 16))


def test_gptq_has_zeros_of_16() -> None:
    """The first version stores 15 for it, and takes no bit of its neighbour."""
    value, scale, zero = drawn()
    layer = Gptq(**INT4).decode(contiguous(gptq(value, scale, torch.full_like(zero, 16), less=1)), 24, 48)
    assert isinstance(layer.weight, Int4)
    assert layer.weight.zero.unique().tolist() == [16]
    packed = blocks.from_blocks(blocks.to_blocks(layer.weight))
    assert same(packed, layer.weight)


def test_gptq_in_the_order_of_activations() -> None:
    """desc_act: any input may be in any group; the layer takes its inputs in the order of the groups."""
    value, scale, zero = drawn()
    groups_of = (torch.arange(48) // 16)[torch.randperm(48, generator=torch.Generator().manual_seed(0))]
    tensors = contiguous(gptq(value, scale, zero, less=1)) | {"g_idx": groups_of.int()}
    layer = Gptq(**INT4).decode(tensors, 24, 48)
    assert layer.order is not None
    weight = wanted(value, scale, zero, groups_of)
    x = torch.randn(5, 48, requires_grad=True)
    linear = QuantizedLinear(layer.weight, order=layer.order).prepare()
    y = linear(x)
    torch.testing.assert_close(y, x @ weight.t(), rtol=1e-3, atol=1e-2)
    y.sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(5, -1), rtol=1e-3, atol=1e-2)
    again = QuantizedLinear(layer.weight, order=layer.order).to(torch.bfloat16).unprepare()
    assert torch.equal(again.order, layer.order)


def test_gptq_of_8_bits() -> None:
    int8 = round_int8(torch.randn(16, 32))
    whole = int8.value.int() + 128
    packed = sum(whole[:, place::4].long() << (8 * place) for place in range(4))
    qweight = packed.where(packed < 2**31, packed - 2**32).int().t().contiguous()
    zeros = torch.full((1, 4), 0x7F7F7F7F, dtype=torch.int32)
    tensors = {"qweight": qweight, "qzeros": zeros, "scales": int8.scale[None]}
    form = parse({"quant_method": "gptq", "bits": 8, "group_size": -1})
    agree(form, tensors, 16, 32)
    layer = form.decode(tensors, 16, 32)
    assert torch.equal(layer.weight.dequantize(), int8.dequantize())
    with pytest.raises(ValueError, match="zero points are not all 128"):
        form.decode(tensors | {"qzeros": zeros + 1}, 16, 32)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda g: g + 1, "names groups beyond the 3"),
        (lambda g: g - 1, "names groups beyond the 3"),
        (lambda g: g.clamp(max=1), "doesn't give each group 16 inputs"),
    ],
)
def test_a_g_idx_that_can_not_be(change, rule: str) -> None:
    value, scale, zero = drawn()
    tensors = contiguous(gptq(value, scale, zero, less=1)) | {"g_idx": change(torch.arange(48) // 16).int()}
    with pytest.raises(ValueError, match=rule):
        Gptq(**INT4).decode(tensors, 24, 48)


def test_awq() -> None:
    value, scale, zero = drawn()
    form = parse({"quant_method": "awq", "version": "gemm", "zero_point": True, "w_bit": 4, "q_group_size": 16})
    tensors = {"qweight": words(value.t(), AWQ_ORDER), "qzeros": words(zero.t(), AWQ_ORDER), "scales": scale.t()}
    agree(form, tensors, 24, 48)
    layer = form.decode(tensors, 24, 48)
    assert torch.equal(layer.weight.dequantize(), wanted(value, scale, zero, torch.arange(48) // 16))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    groups=st.integers(1, 4),
    size=st.sampled_from([2, 6, 8, 32]),
    seed=st.integers(0, 2**31),
    half=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_what_is_written_comes_back(n: int, groups: int, size: int, seed: int, half: torch.dtype) -> None:
    weight = torch.randn(n, groups * size, generator=torch.Generator().manual_seed(seed))
    form = CompressedTensors(bits=4, group_size=size, symmetric=False)
    for rounded, stored in (
        (round_int4(weight, size, dtype=half), form),
        (round_int8(weight), CompressedTensors(bits=8, group_size=None, symmetric=True)),
    ):
        tensors = contiguous(stored.encode(rounded))
        agree(stored, tensors, n, groups * size)
        assert set(tensors) <= set(stored.suffixes)
        assert same(stored.decode(tensors, n, groups * size).weight, rounded)
        assert parse(stored.to_hf(["lm_head"])) == stored


def test_scales_of_32_bits_become_16_where_nothing_is_lost() -> None:
    """The kernels read 16 bits; fp32 scales that need all theirs stay, and the product is torch's."""
    form = CompressedTensors(bits=4, group_size=8, symmetric=True)
    for scale, dtype in ((1 / 3, torch.float32), (1.5, torch.bfloat16), (1 + 2**-10, torch.float16)):
        tensors = {
            "weight_packed": torch.zeros(2, 2, dtype=torch.int32),
            "weight_scale": torch.full((2, 2), scale),
            "weight_shape": torch.tensor([2, 16]),
        }
        layer: Layer = form.decode(tensors, 2, 16)
        assert layer.weight.scale.dtype == dtype
        assert layer.weight.dequantize().unique().tolist() == [-8 * torch.tensor(scale).item()]


def test_what_has_no_place_is_not_written() -> None:
    form = CompressedTensors(bits=4, group_size=8, symmetric=False)
    int4 = round_int4(torch.randn(4, 16), 8)
    sixteen = Int4(value=int4.value, scale=int4.scale, zero=torch.full_like(int4.zero, 16))
    with pytest.raises(ValueError, match="zero point of 16"):
        form.encode(sixteen)
    with pytest.raises(ValueError, match="Int8 is no int4, groups of 8"):
        form.encode(round_int8(torch.randn(4, 16)))


@pytest.mark.parametrize(
    ("form", "n", "k", "rule"),
    [
        (Gptq(**INT4), 24, 40, "40 inputs are no whole groups of 16"),
        (Gptq(**INT4), 12, 32, "no whole numbers of 32 bits"),
        (Awq(**INT4), 12, 32, "12 outputs of 4 bits"),
        (Awq(bits=4, group_size=2**20), 16, 32, "no whole groups of 1048576"),
        (CompressedTensors(bits=4, group_size=None, symmetric=True), 8, 15, "15 inputs of 4 bits"),
    ],
)
def test_sizes_that_a_format_can_not_have(form: Format, n: int, k: int, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        form.entries(n, k)


def test_a_shape_that_contradicts_the_model() -> None:
    form = CompressedTensors(bits=8, group_size=None, symmetric=True)
    tensors = form.encode(Int8(value=torch.zeros(4, 8, dtype=torch.int8), scale=torch.ones(4)))
    with pytest.raises(ValueError, match=r"weight_shape says \[8, 4\], the model \[4, 8\]"):
        form.decode(tensors | {"weight_shape": torch.tensor([8, 4])}, 4, 8)
