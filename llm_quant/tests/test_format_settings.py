"""quantization_config as strangers write it: what is known, and every key that is refused."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_quant.formats import METHODS, Awq, Bnb4, Bnb8, CompressedTensors, Gptq, parse

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.1}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
BNB = {  # as transformers writes it
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}
BNB8 = BNB | {"load_in_4bit": False, "load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}
WEIGHTS = {
    "actorder": "weight",
    "block_structure": None,
    "dynamic": False,
    "group_size": 128,
    "num_bits": 4,
    "observer": "minmax",
    "observer_kwargs": {},
    "strategy": "group",
    "symmetric": True,
    "type": "int",
}
PACKED = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": WEIGHTS}
    },
    "format": "pack-quantized",
    "global_compression_ratio": 1.9,
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "quantization_status": "compressed",
    "sparsity_config": {"format": "dense", "global_sparsity": 0.1, "ignore": [], "registry_requires_subclass": False},
    "transform_config": {},
    "version": "0.11.0",
}


def test_what_is_known() -> None:
    assert parse(GPTQ) == Gptq(bits=4, group_size=128)
    assert parse(GPTQ | {"checkpoint_format": "gptq_v2"}) == Gptq(bits=4, group_size=128, zeros_less_one=False)
    assert parse(AWQ) == Awq(bits=4, group_size=128)
    assert parse(PACKED) == CompressedTensors(bits=4, group_size=128, symmetric=True)
    assert parse(BNB) == Bnb4(code="nf4", nested=True)
    assert str(parse(BNB)) == "nf4, double quantization (bitsandbytes)"
    assert parse({"quant_method": "bitsandbytes", "load_in_4bit": True}) == Bnb4(code="fp4", nested=False)
    assert parse(BNB8) == Bnb8()
    assert str(parse(PACKED)) == "int4, groups of 128 (compressed-tensors)"
    assert str(parse(GPTQ | {"bits": 8, "group_size": -1})) == "int8, a scale for each row (gptq)"


def with_weights(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(PACKED)
    changed["config_groups"]["group_0"]["weights"] |= changes
    return changed


def with_group(**changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(PACKED)
    changed["config_groups"]["group_0"] |= changes
    return changed


def test_variants_of_compressed_tensors() -> None:
    channel = {"strategy": "channel", "group_size": None, "actorder": None}
    assert parse(with_weights(num_bits=8, **channel)) == CompressedTensors(bits=8, group_size=None, symmetric=True)
    assert parse(with_weights(**channel)) == CompressedTensors(bits=4, group_size=None, symmetric=True)
    assert parse(with_weights(symmetric=False)) == CompressedTensors(bits=4, group_size=128, symmetric=False)
    ordered = CompressedTensors(bits=4, group_size=128, symmetric=True, by_g_idx=True)
    assert parse(with_weights(actorder="group")) == ordered
    twice = copy.deepcopy(PACKED)
    twice["config_groups"]["group_1"] = copy.deepcopy(twice["config_groups"]["group_0"]) | {"targets": ["re:.*q_proj"]}
    assert parse(twice) == parse(PACKED)


ROUNDED = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"quant_method": "fp8"}, r"quant_method = 'fp8'.* compressed-tensors, gptq, awq, bitsandbytes; use"),
        ({"quant_method": "bitsandbytes"}, "load_in_4bit = None.*either it or load_in_8bit is true"),
        (BNB | {"load_in_8bit": True}, "either it or load_in_8bit is true"),
        (BNB | {"load_in_4bit": 1}, "load_in_4bit = 1.*true or false"),
        (BNB | {"bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type = 'int4'"),
        (BNB | {"bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage = 'bfloat16'.*read from uint8"),
        (BNB | {"bnb_4bit_blocksize": 128}, "bnb_4bit_blocksize = 128.*may change"),
        (BNB8 | {"llm_int8_threshold": 0.0}, r"llm_int8_threshold = 0\.0"),
        (BNB8 | {"llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight = True"),
        ({"bits": 4}, "quant_method = None"),
        ({"quant_method": ["gptq"]}, "quant_method"),
        ([], r"must be an object, not \[\]"),
        (GPTQ | {"bits": 3}, "bits = 3, which is not supported: weights of 4 and 8 bits"),
        (GPTQ | {"bits": True}, "bits = True"),
        (GPTQ | {"bits": None}, "lacks the key 'bits'"),
        (GPTQ | {"bits": 8}, "group_size = 128.* 8 bits are read with a scale for each row alone"),
        (GPTQ | {"group_size": 0}, "group_size = 0"),
        (GPTQ | {"group_size": 2**40}, "group_size = 1099511627776"),
        (GPTQ | {"group_size": 64.0}, "group_size = 64.0"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format = 'marlin'"),
        (GPTQ | {"checkpoint_format": "gptq", "format": "bitblas"}, "format = 'bitblas'"),
        (GPTQ | {"is_marlin_format": True}, "is_marlin_format"),
        (GPTQ | {"pack_dtype": "int16"}, "pack_dtype"),
        (GPTQ | {"dynamic": {"+:.*down.*": {"bits": 8}}}, r"dynamic = .*layers that differ"),
        (GPTQ | {"adapter": {"name": "eora"}}, "adapter = .*it may change what the weights mean"),
        (AWQ | {"bits": 8}, "bits = 8, which is not supported: weights of 4 bits"),
        (AWQ | {"version": "gemv"}, "version = 'gemv'"),
        (AWQ | {"backend": "llm-awq"}, "backend = 'llm-awq'"),
        (AWQ | {"zero_point": False}, "zero_point = False"),
        (AWQ | {"desc_act": True}, "desc_act = True"),
        (AWQ | {"new_key": 1}, "new_key = 1"),
        (PACKED | {"format": "float-quantized"}, "format = 'float-quantized'"),
        (PACKED | {"format": None}, "lacks the key 'format'"),
        (PACKED | {"quantization_status": "frozen"}, "quantization_status"),
        (PACKED | {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme = .*the cache would be rounded too"),
        (PACKED | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config = .*sparse weights"),
        (PACKED | {"moe_sparsity_config": {"x": 1}}, "moe_sparsity_config"),
        (PACKED | {"transform_config": {"config_groups": {"R1": {}}}}, "transform_config = .*transformed"),
        (PACKED | {"config_groups": {}}, r"config_groups = \{\}"),
        (PACKED | {"config_groups": {"W4A16": ["Linear"]}}, r"config_groups\.W4A16 must be an object"),
        (PACKED | {"another": 1}, "another = 1"),
        (with_group(input_activations=ROUNDED), r"config_groups\.group_0 has input_activations = .*activations"),
        (with_group(output_activations=ROUNDED), "output_activations"),
        (with_group(format="int-quantized"), r"config_groups\.group_0 has format"),
        (with_group(weights=None), r"config_groups\.group_0\.weights must be an object, not None"),
        (with_group(another=1), r"config_groups\.group_0 has another = 1"),
        (with_weights(num_bits=2), r"config_groups\.group_0\.weights has num_bits = 2"),
        (with_weights(type="float"), "type = 'float'"),
        (with_weights(dynamic=True), "dynamic = True"),
        (with_weights(block_structure=[128, 128]), "block_structure"),
        (with_weights(actorder="other"), "actorder = 'other'"),
        (with_weights(strategy="tensor"), "strategy = 'tensor'"),
        (with_weights(strategy=None), "lacks the key 'strategy'"),
        (with_weights(strategy="channel"), "group_size = 128.*has no groups"),
        (with_weights(symmetric="yes"), "symmetric = 'yes'.*true or false"),
        (with_weights(num_bits=8), "group_size = 128.* 8 bits are read with a scale for each row"),
        (with_weights(num_bits=8, strategy="channel", group_size=None, symmetric=False), "symmetric = False"),
        (with_weights(another=1), r"weights has another = 1"),
    ],
)
def test_what_can_not_be_honoured_is_named(config: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse(config)


def test_groups_of_layers_that_differ() -> None:
    mixed = with_group()
    mixed["config_groups"]["group_1"] = with_weights(group_size=32)["config_groups"]["group_0"]
    with pytest.raises(ValueError, match=r"config_groups = .*groups of layers that differ"):
        parse(mixed)


def test_a_value_of_megabytes_is_shortened() -> None:
    with pytest.raises(ValueError, match="format") as caught:
        parse(GPTQ | {"format": "x" * 10**6})
    assert len(str(caught.value)) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(base=st.sampled_from([GPTQ, AWQ, PACKED, BNB, BNB8, {"quant_method": "gptq"}]), key=st.data(), value=JSON)
def test_any_value_is_read_or_refused_as_a_value_error(base: dict[str, Any], key: st.DataObject, value: Any) -> None:
    changed = copy.deepcopy(base)
    changed[key.draw(st.sampled_from(sorted(changed)))] = value
    try:
        found = parse(changed)
    except ValueError:
        return
    assert found.method in METHODS


@given(key=st.sampled_from(sorted(WEIGHTS)), value=JSON)
def test_any_value_of_the_weights_too(key: str, value: Any) -> None:
    try:
        found = parse(with_weights(**{key: value}))
    except ValueError:
        return
    assert found.bits in (4, 8)
