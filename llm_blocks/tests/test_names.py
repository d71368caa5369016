import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_blocks.names import decider, from_hf_name, is_computed, spellings, to_hf_name

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


MIXED = {
    "model.layers.{i}.moe.{e}.up.weight": "mid.{i}.experts.{e}.up.weight",
    "layers.{i}.moe.{e}.up.weight": "mid.{i}.experts.{e}.up.weight",
    "model.layers.{i}.attn.bias": "",
    "vision_tower.*": "",
}


@given(st.integers(0, 99_999), st.integers(0, 99_999))
def test_an_expert_has_a_number_of_its_own(layer: int, expert: int) -> None:
    ours = f"mid.{layer}.experts.{expert}.up.weight"
    assert from_hf_name(MIXED, f"model.layers.{layer}.moe.{expert}.up.weight") == ours
    assert from_hf_name(MIXED, f"layers.{layer}.moe.{expert}.up.weight") == ours
    assert to_hf_name(MIXED, ours) == f"model.layers.{layer}.moe.{expert}.up.weight", "the first spelling is written"


@pytest.mark.parametrize("name", ["model.layers.7.attn.bias", "vision_tower.layers.3.mlp.9.bias", "vision_tower.x"])
def test_what_is_no_part_of_the_model_is_dropped(name: str) -> None:
    assert from_hf_name(MIXED, name) == ""
    assert decider(MIXED)(name) is None


def test_a_dropped_buffer_is_told_from_a_dropped_part() -> None:
    names = ["model.layers.7.attn.bias", "rope.freqs", "vision_tower.x", "vision_tower.layers.3.attn.bias"]
    assert [is_computed(MIXED, name) for name in names] == [True, True, False, False]


@pytest.mark.parametrize(
    "name", ["vision_towers.x", "model.layers.1.moe.2.up.3.weight", "model.layers.1.moe.up.weight"]
)
def test_names_that_only_resemble_a_pattern_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown tensor"):
        decider(MIXED)(name)


def test_layers_beyond_the_models_are_dropped_where_the_table_says_so() -> None:
    names = {"model.layers.{beyond}.*": "", **NAMES}
    decide = decider(names, num_layers=3)
    assert decide("model.layers.2.up.weight") == ["mid", "2", "mlp.up.weight"]
    assert decide("model.layers.3.eh_proj.weight") is None
    assert decide("model.layers.12345678901.experts.1.weight") is None
    for name in ("model.layers.2.eh_proj.weight", "layers.3.up.weight", "model.layers.x.up.weight"):
        with pytest.raises(ValueError, match="unknown tensor"):
            decide(name)
    with pytest.raises(ValueError, match="unknown tensor"):
        decider(NAMES, num_layers=3)("model.layers.3.eh_proj.weight")


def test_every_spelling_of_a_name() -> None:
    names = {"h.{i}.a.weight": "mid.{i}.x.weight", "other": "end.x", "g.{i}.b.weight": "mid.{i}.x.weight"}
    for key in ("h.7.a.weight", "g.7.b.weight"):
        assert spellings(names, key) == ["h.7.a.weight", "g.7.b.weight"]
    assert spellings(names, "other") == ["other"]
