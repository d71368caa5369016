"""JSON of others: bombs, wrong types and broken text give one sentence that names the file."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sepweight
from llm_sepweight import WeightsError

BROKEN = {
    "deep lists": b'{"weight_map": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "unclosed depth": b"[" * 1_000_000,
    "huge integer": b'{"weight_map": ' + b"9" * 10_000 + b"}",
    "not UTF-8": b'{"weight_map": "\xff"}',
    "UTF-16": '{"weight_map": {}}'.encode("utf-16"),
    "no JSON": b"hello",
    "empty": b"",
    "NUL": b"\0" * 100,
    "trailing": b'{"weight_map": {"w": "x.safetensors"}} extra',
    "duplicate key": b'{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}',
    "a list": b"[1, 2]",
    "a number": b"1",
    "null": b"null",
    "no map": b"{}",
    "an empty map": b'{"weight_map": {}}',
    "a list as map": b'{"weight_map": ["x.safetensors"]}',
    "text as map": b'{"weight_map": "x.safetensors"}',
}


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json", "sepweight.json"])
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_json_is_refused_by_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        llm_sepweight.open(tmp_path)


def test_a_file_over_the_limit_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # sparse: a terabyte that takes no room
    with pytest.raises(WeightsError, match=r"index\.json: larger than"):
        llm_sepweight.open(tmp_path)
    (tmp_path / "c.json").write_text('{"a": 1}')
    with pytest.raises(WeightsError, match="larger than 4 bytes"):
        llm_sepweight.read_json(tmp_path / "c.json", max_bytes=4)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"config\.json: can't be read \(No such file"):
        llm_sepweight.read_json(tmp_path / "config.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(value=JSON)
@settings(max_examples=60)
def test_what_json_writes_is_read_back_and_only_objects_pass(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(value))
    if isinstance(value, dict):
        assert llm_sepweight.read_json(path) == value
    else:
        with pytest.raises(WeightsError, match="must hold a JSON object"):
            llm_sepweight.read_json(path)


@given(weight_map=JSON)
@settings(max_examples=60)
def test_any_value_for_the_weight_map_is_refused_cleanly(tmp_path_factory, weight_map):
    folder = tmp_path_factory.mktemp("index")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError):
        llm_sepweight.open(folder)


def test_a_manifest_that_stores_what_it_calls_tied_is_refused(tmp_path, sectioned):
    """The stored tensor was passed over in silence, and the other one read in its place."""
    llm_sepweight.write(tmp_path / "out", sectioned)
    marker = tmp_path / "out" / "sepweight.json"
    value = json.loads(marker.read_text()) | {"tied": {"end.lm_head.weight": "begin.embed_tokens.weight"}}
    marker.write_text(json.dumps(value))
    with pytest.raises(WeightsError, match=r"sepweight\.json: 'tied' maps .* though end\.safetensors holds it as well"):
        llm_sepweight.open(tmp_path / "out")
