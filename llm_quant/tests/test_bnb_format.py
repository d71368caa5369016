"""Layers as bitsandbytes' own modules store them, and what strangers may put in their place."""

import json
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_quant.bnb import Bit4, library, quantized
from llm_quant.formats import Bnb4, Bnb8

if find_spec("bitsandbytes") is None:
    pytest.skip("bitsandbytes, the extra bnb, is not installed", allow_module_level=True)

N, K = 96, 448
FORMS = [Bnb4(code=code, nested=nested) for code in ("nf4", "fp4") for nested in (False, True)]


@pytest.fixture(scope="module")
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(K, N)


def stored(linear: nn.Linear, form: Bnb4 | Bnb8) -> dict[str, Tensor]:
    """What bitsandbytes stores of a layer, without its bias."""
    modules = library.library().nn
    if isinstance(form, Bnb8):
        layer = modules.Linear8bitLt(K, N, has_fp16_weights=False, threshold=6.0)
    else:
        layer = modules.Linear4bit(K, N, compress_statistics=form.nested, quant_type=form.code)
    layer.load_state_dict(linear.state_dict())
    state = layer.to("cpu").state_dict()
    del state["bias"]
    return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("form", [*FORMS, Bnb8()], ids=str)
def test_what_bitsandbytes_stores_is_read(form: Bnb4 | Bnb8, linear: nn.Linear) -> None:
    tensors = stored(linear, form)
    entries = form.entries(N, K)
    assert tensors.keys() == entries.keys()
    assert tensors.keys() <= set(form.suffixes)
    for name, entry in entries.items():
        assert entry.fits(tuple(tensors[name].shape)), name
        assert tensors[name].dtype in entry.dtypes, name
    layer = form.decode(tensors, N, K).linear(linear.bias.detach())
    scheme = "bnb.int8" if isinstance(form, Bnb8) else f"bnb.{form.code}" + ("-dq" if form.nested else "")
    assert layer.kind == scheme
    wanted = quantized(linear, scheme)
    if layer.kind.endswith("-dq"):  # of a thousand scales bitsandbytes rounds one to a neighbour of the nearest
        torch.testing.assert_close(layer.absmax.int(), wanted.absmax.int(), rtol=0, atol=1)
        wanted.absmax = layer.absmax
    x = torch.randn(3, K)
    assert torch.equal(layer(x), wanted(x))


def changed(state: Tensor, **changes: Any) -> Tensor:
    found = json.loads(bytes(state.tolist())) | changes
    return torch.tensor(list(json.dumps({k: v for k, v in found.items() if v != "gone"}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"quant_type": "fp4"}, "quant_state has quant_type = 'fp4', not nf4"),
        ({"blocksize": 128}, "quant_state has blocksize = 128, not 64"),
        ({"shape": [K, N]}, r"quant_state has shape = \[448, 96\]"),
        ({"shape": None}, "quant_state has shape = None"),
        ({"dtype": "__class__"}, "quant_state has dtype = '__class__'"),
        ({"nested_blocksize": 64}, "nested_blocksize = 64, not 256"),
        ({"nested_dtype": "float16"}, "nested_dtype = 'float16'"),
        ({"nested_offset": float("nan")}, "nested_offset = nan, which is no finite number"),
        ({"nested_offset": "gone"}, "nested_offset = None, which is no finite number"),
        ({"nested_offset": 10**400}, "nested_offset = 1000"),
        ({"nested_offset": True}, "nested_offset = True"),
        ({"another": 1}, "quant_state has 'another', of which nothing is known"),
    ],
)
def test_a_state_that_is_not_the_layers_is_refused(changes: dict[str, Any], rule: str, linear: nn.Linear) -> None:
    form = Bnb4(code="nf4", nested=True)
    tensors, name = stored(linear, form), "weight.quant_state.bitsandbytes__nf4"
    tensors[name] = changed(tensors[name], **changes)
    with pytest.raises(ValueError, match=rule):
        form.decode(tensors, N, K)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 4000, b"[]", b"\xff\xfe", b"1"])
def test_a_state_that_is_no_object_is_refused(text: bytes, linear: nn.Linear) -> None:
    form = Bnb4(code="nf4", nested=True)
    tensors, name = stored(linear, form), "weight.quant_state.bitsandbytes__nf4"
    tensors[name] = torch.tensor(list(text), dtype=torch.uint8)
    with pytest.raises(ValueError, match="quant_state is no JSON"):
        form.decode(tensors, N, K)


def test_another_table_is_refused(linear: nn.Linear) -> None:
    form = Bnb4(code="nf4", nested=False)
    tensors = stored(linear, form)
    tensors["weight.quant_map"][3] += 0.01
    with pytest.raises(ValueError, match="quant_map is not the table of nf4"):
        form.decode(tensors, N, K)


def test_the_order_of_a_processor_is_refused(linear: nn.Linear) -> None:
    tensors = stored(linear, Bnb8())
    tensors["weight_format"] = torch.tensor(1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="weight_format is the order of one processor"):
        Bnb8().decode(tensors, N, K)


def test_the_length_of_a_state_has_bounds() -> None:
    entry = Bnb4(code="nf4", nested=True).entries(N, K)["weight.quant_state.bitsandbytes__nf4"]
    assert [shape for shape in ((0,), (1,), (4096,), (4097,), (1, 1), ()) if entry.fits(shape)] == [(1,), (4096,)]


def test_halves_of_a_byte_are_counted() -> None:
    assert Bnb4(code="nf4", nested=False).entries(3, 33)["weight"].shape == (50, 1)
    layer = Bnb4(code="nf4", nested=False)
    assert isinstance(layer.decode(odd(), 3, 33).weight, Bit4)


def odd() -> dict[str, Tensor]:
    functional = library.library().functional
    value, state = functional.quantize_4bit(torch.randn(3, 33), quant_type="nf4")
    return {"weight": value} | {f"weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
