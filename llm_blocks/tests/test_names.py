import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_blocks.names import decider, from_hf_name, to_hf_name

NAMES = {
    "model.embed.weight": "begin.embed.weight",
    "model.layers.{i}.up.weight": "mid.{i}.mlp.up.weight",
    "head.weight": "end.head.weight",
}


@given(st.integers(0, 99_999))
def test_names_go_both_ways(layer: int) -> None:
    theirs, ours = f"model.layers.{layer}.up.weight", f"mid.{layer}.mlp.up.weight"
    assert from_hf_name(NAMES, theirs) == ours
    assert to_hf_name(NAMES, ours) == theirs


def test_the_decider_gives_section_and_key() -> None:
    decide = decider(NAMES)
    assert decide("model.embed.weight") == ["begin", "embed.weight"]
    assert decide("model.layers.11.up.weight") == ["mid", "11", "mlp.up.weight"]
    assert decide("head.weight") == ["end", "head.weight"]


def test_computed_buffers_of_older_checkpoints_are_dropped() -> None:
    assert decider(NAMES)("model.layers.3.self_attn.rotary_emb.inv_freq") is None


@pytest.mark.parametrize(
    "name", ["model.layers.3.down.weight", "model.layers.x.up.weight", "model.layers.03.up.weight", "", "{i}", "embed"]
)
def test_an_unknown_name_is_refused_and_named(name: str) -> None:
    with pytest.raises(ValueError, match="unknown tensor"):
        decider(NAMES)(name)
