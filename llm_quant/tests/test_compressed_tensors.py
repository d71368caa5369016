"""Our form of stored layers against the library that defines it, both ways."""

import pytest
import torch
from torch import Tensor

from llm_quant import round_int4, round_int8
from llm_quant.formats import Awq, CompressedTensors, parse

pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed (pip install compressed-tensors)")

from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

N, K = 24, 64


def theirs(form: CompressedTensors) -> QuantizationScheme:
    """The library's scheme, from what we write into config.json."""
    return QuantizationConfig.model_validate(form.to_hf(["lm_head"])).config_groups["group_0"]


FORMS = [
    CompressedTensors(bits=8, group_size=None, symmetric=True),
    CompressedTensors(bits=4, group_size=16, symmetric=False),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("n", [N, 13])
def test_the_library_reads_what_we_write(form: CompressedTensors, n: int) -> None:
    weight = torch.randn(n, K, generator=torch.Generator().manual_seed(n))
    rounded = round_int8(weight) if form.bits == 8 else round_int4(weight, 16)
    tensors = form.encode(rounded)
    tensors["weight_scale"] = tensors["weight_scale"].float()
    found = PackedQuantizationCompressor.decompress(tensors, theirs(form))["weight"]
    assert torch.equal(found, rounded.dequantize())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 16), (4, None), (8, None)])
@pytest.mark.parametrize("k", [K, 48])
def test_we_read_what_the_library_writes(symmetric: bool, bits: int, group: int | None, k: int) -> None:
    if bits == 8 and not symmetric:
        pytest.skip("refused: Int8 is symmetric")
    strategy = {"strategy": "channel"} if group is None else {"strategy": "group", "group_size": group}
    args = QuantizationArgs(num_bits=bits, symmetric=symmetric, **strategy)
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=args)},
        format="pack-quantized",
        quantization_status="compressed",
    )
    scheme = config.config_groups["group_0"]
    weight = torch.randn(N, k)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    shape = (N, k // group if group else 1)
    state: dict[str, Tensor] = {
        "weight": weight,
        "weight_scale": torch.rand(shape).half().float() / high + 0.05,
        "weight_zero_point": torch.randint(low, high + 1, shape, dtype=torch.int8) * (not symmetric),
    }
    stored = PackedQuantizationCompressor.compress(state, scheme)
    wanted = PackedQuantizationCompressor.decompress(dict(stored), scheme)["weight"]
    form = parse(config.model_dump(mode="json"))
    for name, entry in form.entries(N, k).items():
        assert (tuple(stored[name].shape), stored[name].dtype in entry.dtypes) == (entry.shape, True), name
    assert torch.equal(form.decode(stored, N, k).weight.dequantize(), wanted)


def test_awq_as_the_library_converts_it() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "qweight": torch.randint(-(2**31), 2**31, (K, N // 8), generator=generator).int(),
        "qzeros": torch.randint(-(2**31), 2**31, (4, N // 8), generator=generator).int(),
        "scales": torch.rand(4, N, generator=generator).half(),
    }
    converter = AutoAWQConverter(group_size=16, ignore=())
    stored = converter.process({f"layer.{name}": tensor for name, tensor in tensors.items()})
    stored = {name.removeprefix("layer."): tensor for name, tensor in stored.items()}
    form = CompressedTensors(bits=4, group_size=16, symmetric=False)
    wanted = PackedQuantizationCompressor.decompress(
        stored | {"weight_scale": stored["weight_scale"].float()}, theirs(form)
    )
    assert torch.equal(Awq(bits=4, group_size=16).decode(tensors, N, K).weight.dequantize(), wanted["weight"])
    assert torch.equal(form.decode(stored, N, K).weight.dequantize(), wanted["weight"])
