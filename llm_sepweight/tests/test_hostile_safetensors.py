"""Headers that lie. The safetensors library is the judge: what it refuses is refused, what it takes is read alike."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import llm_sepweight
from llm_sepweight import WeightsError


def build(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


LIES = {
    "empty file": b"",
    "seven bytes": b"\0" * 7,
    "length alone": (100).to_bytes(8, "little"),
    "header of no bytes": build(b""),
    "header longer than the file": build({"w": entry()}, length=10_000),
    "header of 2**31": build({"w": entry()}, bytes(8), length=2**31),
    "header of 2**63-1": build({"w": entry()}, bytes(8), length=2**63 - 1),
    "header of 2**64-1": build({"w": entry()}, bytes(8), length=2**64 - 1),
    "header shorter than its JSON": build({"w": entry()}, bytes(8), length=5),
    "no data": build({"w": entry()}),
    "data cut": build({"w": entry()}, bytes(7)),
    "data left over": build({"w": entry()}, bytes(9)),
    "offset past the end": build({"w": entry(begin=1000, end=1008)}, bytes(8)),
    "offsets of 2**64": build({"w": entry(begin=2**64 - 8, end=2**64)}, bytes(8)),
    "negative offset": build({"w": entry(begin=-8, end=0)}, bytes(8)),
    "backward offsets": build({"w": entry(begin=8, end=0)}, bytes(8)),
    "hole": build({"v": entry(), "w": entry(begin=16, end=24)}, bytes(24)),
    "hole at the start": build({"w": entry(begin=8, end=16)}, bytes(16)),
    "overlap": build({"v": entry(), "w": entry(begin=4, end=12)}, bytes(12)),
    "same bytes twice": build({"v": entry(), "w": entry()}, bytes(8)),
    "shape too large": build({"w": entry(shape=(3,))}, bytes(8)),
    "shape too small": build({"w": entry(shape=(1,))}, bytes(8)),
    "shape that overflows 64 bits": build({"w": entry(shape=(2**32, 2**32))}, bytes(8)),
    "shape that overflows to the right size": build({"w": entry(shape=(2**62 + 2,))}, bytes(8)),
    "huge shape of no elements": build({"w": entry(shape=(0, 2**63), end=0)}),
    "negative shape": build({"w": entry(shape=(-1, -2))}, bytes(8)),
    "fractional shape": build({"w": entry(shape=(2.0,))}, bytes(8)),
    "bool in the shape": build({"w": entry(shape=(2, True))}, bytes(8)),
    "text as shape": build({"w": entry() | {"shape": "2"}}, bytes(8)),
    "no shape": build({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "three offsets": build({"w": entry() | {"data_offsets": [0, 4, 8]}}, bytes(8)),
    "unknown dtype": build({"w": entry(dtype="F31")}, bytes(8)),
    "dtype of another case": build({"w": entry(dtype="f32")}, bytes(8)),
    "dtype as a list": build({"w": entry() | {"dtype": ["F32"]}}, bytes(8)),
    "entry as a number": build({"w": 3}, bytes(8)),
    "entry as null": build({"w": None}, bytes(8)),
    "duplicate key": build(
        b'{"w":' + json.dumps(entry()).encode() + b',"w":' + json.dumps(entry()).encode() + b"}", bytes(8)
    ),
    "a list as header": build([1, 2], bytes(8)),
    "text as header": build("w", bytes(8)),
    "not UTF-8": build(b'{"\xff\xfe": 1}', bytes(8)),
    "deep header": build(b'{"w":' * 50_000 + b"1" + b"}" * 50_000, bytes(8)),
    "metadata as a list": build({"__metadata__": [], "w": entry()}, bytes(8)),
    "metadata of numbers": build({"__metadata__": {"a": 1}, "w": entry()}, bytes(8)),
    "a zip file": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR." + bytes(100),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_a_lying_file_is_refused_by_name(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"model\.safetensors: "):
        llm_sepweight.open(tmp_path)


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        ("data cut", "truncated, it has .* first tensor cut off is 'w'"),
        ("header longer than the file", "truncated within the header"),
        ("header of 2**64-1", "its header would have 18446744073709551615 bytes"),
        ("shape too large", r"tensor 'w': shape \[3\] of F32 doesn't take 8 bytes"),
        ("unknown dtype", "tensor 'w': dtype 'F31' isn't supported"),
        ("duplicate key", "duplicate key 'w'"),
        ("overlap", "breaks a rule of the safetensors format"),
        ("deep header", "nested too deeply"),
    ],
)
def test_the_rule_is_named(tmp_path, lie, rule):
    (tmp_path / "model.safetensors").write_bytes(LIES[lie])
    with pytest.raises(WeightsError, match=rule):
        llm_sepweight.open(tmp_path)


WHOLE = save({"a": torch.arange(3.0), "b": torch.arange(4, dtype=torch.int16)})


def test_a_file_cut_at_any_byte_is_refused(tmp_path):
    for size in range(len(WHOLE)):
        (tmp_path / "model.safetensors").write_bytes(WHOLE[:size])
        with pytest.raises(WeightsError, match=r"model\.safetensors: truncated"):
            llm_sepweight.open(tmp_path)


@given(position=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_judged_as_by_the_library(tmp_path_factory, position, value):
    data = bytearray(WHOLE)
    data[position] = value
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(data)
    try:
        with safe_open(path, framework="pt") as file:
            expected = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError):
        with pytest.raises(WeightsError):
            llm_sepweight.open(path)
        return
    with llm_sepweight.open(path) as weights:
        assert set(weights.names) == set(expected)
        for key, tensor in expected.items():
            assert weights.info(key).dtype == tensor.dtype
            assert torch.equal(weights.read(key).view(torch.uint8), tensor.view(torch.uint8))
