"""Phi 3, 3.5 and 4 against transformers.

LongRoPE has two sets of factors. Here the length that a cache knows of each text decides which one holds, or the room
it has; in transformers it is the text of each forward. Both agree where all texts of a test, one id included, are on
the same side of the trained length: so the cases of the suite have a trained length beyond every text of it, or 1. (A
text of one id is no exception, for position 0 turns by no angle.) What happens at the trained length is tested below.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import llm_blocks
from llm_blocks import testing
from llm_blocks.cache import SPARE
from llm_blocks.testing import Case
from llm_model_phi import phi3

SHORT, LONG = [1.0, 1.1, 1.3, 2.0], [1.2, 2.5, 7.0, 15.0]
BEYOND_EVERY_TEXT = {"original_max_position_embeddings": 128, "max_position_embeddings": 2048}
# the logarithm of 1 is no divisor, so the scale is given where that is the trained length
BEFORE_EVERY_TEXT = {"original_max_position_embeddings": 1, "max_position_embeddings": 128}

FAMILY = testing.Family(
    model_type="phi3",
    models="Phi-3-mini, Phi-3-medium, Phi-3.5-mini, Phi-4, Phi-4-reasoning, Phi-4-mini",
    features="fused projections, sliding window, grouped queries, LongRoPE, part of each head may turn",
    base={
        "vocab_size": 32064,  # transformers takes 32000 for the padding id where config.json doesn't name one
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    cases={
        "mha, window": {"num_key_value_heads": None, "sliding_window": 7},
        "window of two": {"sliding_window": 2},
        "10 kv heads": {"hidden_size": 80, "num_attention_heads": 20, "num_key_value_heads": 10, "rope_theta": 2.5e5},
        "part of each head, tied": {"partial_rotary_factor": 0.75, "tie_word_embeddings": True},
        "su, short factors": {
            **BEYOND_EVERY_TEXT,
            # transformers 5 looks for the length inside as well, where the files that say su don't have it
            "rope_scaling": {
                "type": "su",
                "short_factor": SHORT,
                "long_factor": LONG,
                "original_max_position_embeddings": 128,
            },
        },
        "LongRoPE, long factors, window": {
            **BEFORE_EVERY_TEXT,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": SHORT,
                "long_factor": LONG,
                "attention_factor": 1.19,
            },
            "sliding_window": 9,
        },
        "LongRoPE, long factors, part of each head, tied": {
            **BEFORE_EVERY_TEXT,
            "rope_theta": None,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": SHORT[:3],
                "long_factor": LONG[:3],
                "attention_factor": 1.1,
                "partial_rotary_factor": 0.75,
            },
            "tie_word_embeddings": True,
        },
    },
    refused=[
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"full_attn_mod": 2},
        {"interpolate_factor": 2},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"type": "longrope", "short_factor": SHORT[:3], "long_factor": LONG[:3]}},
        {"rope_scaling": {"type": "longrope", "short_factor": SHORT}},
        {
            "rope_scaling": {
                "type": "longrope",
                "short_factor": SHORT,
                "long_factor": LONG,
                "short_mscale": 1.1,
                "long_mscale": 1.2,
            }
        },
        {"partial_rotary_factor": 0.4},
        {"sliding_window": 0},
    ],
)
TestPhi3 = testing.suite(FAMILY)

TRAINED = 24


@pytest.fixture(scope="module", params=[None, 10], ids=["no window", "window"])
def case(request: Any, tmp_path_factory: Any) -> Case:
    """A model with a trained length of 24 ids, extended to 192."""
    change = {
        "max_position_embeddings": 192,
        "original_max_position_embeddings": TRAINED,
        "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG},
        "sliding_window": request.param,
    }
    crossing = replace(FAMILY, cases={"crossing": change})
    return crossing.make("crossing", tmp_path_factory.mktemp("reference"))


@torch.inference_mode()
def theirs(case: Case, ids: torch.Tensor) -> torch.Tensor:
    """What transformers gives for a whole text."""
    return case.reference(ids, use_cache=False).logits


@torch.inference_mode()
def ours(case: Case, ids: torch.Tensor, *, room: int, chunk: int) -> torch.Tensor:
    """What our model gives for a text that is read in chunks into a cache with this room."""
    cache = case.model.new_cache(ids.size(0), room)
    return torch.cat([case.model(part, cache) for part in ids.split(chunk, dim=1)], dim=1)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, TRAINED])
def test_a_cache_up_to_the_trained_length_has_the_short_factors(case: Case, chunk: int) -> None:
    ids = case.ids(2, TRAINED)
    close(ours(case, ids, room=TRAINED, chunk=chunk), theirs(case, ids))


@pytest.mark.parametrize("chunk", [1, 7, TRAINED, TRAINED + 1, 40])
def test_a_text_beyond_the_trained_length_has_the_long_factors_however_it_is_read(case: Case, chunk: int) -> None:
    ids = case.ids(2, 40)
    close(ours(case, ids, room=40, chunk=chunk), theirs(case, ids))


def test_one_position_more_changes_the_factors(case: Case) -> None:
    ids = case.ids(1, TRAINED + 1)
    with torch.inference_mode():
        close(case.model(ids), theirs(case, ids))
        close(case.model(ids[:, :-1]), theirs(case, ids[:, :-1]))
        assert (case.model(ids)[:, :-1] - case.model(ids[:, :-1])).abs().max() > 1e-3


def test_a_text_that_may_become_long_has_the_long_factors_from_the_start(case: Case) -> None:
    """No position is turned twice: those of a short text in a long cache are those of the long text it may become."""
    ids = case.ids(2, 40)
    close(ours(case, ids[:, :10], room=40, chunk=4), theirs(case, ids)[:, :10])


def test_transformers_mixes_the_factors_where_a_text_grows_past_the_trained_length(case: Case) -> None:
    """Its keys keep the short factors with which they were cached, while the ones after them have the long factors.

    Its generate() reads the text again at that point, so that the text before and after it follow different angles.
    """
    ids = case.ids(1, 40)
    with torch.inference_mode():
        first = case.reference(ids[:, :TRAINED], use_cache=True)
        rest = case.reference(ids[:, TRAINED:], past_key_values=first.past_key_values, use_cache=True).logits
    assert (rest - theirs(case, ids)[:, TRAINED:]).abs().max() > 1e-3
    close(ours(case, ids, room=40, chunk=TRAINED)[:, TRAINED:], theirs(case, ids)[:, TRAINED:])


@torch.inference_mode()
def test_rows_without_a_cache_have_the_factors_of_their_own_length(case: Case) -> None:
    ids = case.ids(3, 40)
    counts = [10, 40, TRAINED + 1]
    together = case.model(ids, counts=counts)
    for row, count in enumerate(counts):
        close(together[row, :count], theirs(case, ids[row : row + 1, :count])[0])


@torch.inference_mode()
def test_rows_of_a_cache_have_the_factors_of_what_it_has_room_for(case: Case) -> None:
    ids, counts = case.ids(3, 40), [10, 33, 1]
    cache = case.model.new_cache(3, 40)
    together = case.model(ids, cache, counts=counts)
    steps = case.model(ids[:, 39:], cache)
    for row, count in enumerate(counts):
        alone = theirs(case, torch.cat((ids[row : row + 1, :count], ids[row : row + 1, 39:].expand(1, 40 - count)), 1))
        close(together[row, :count], alone[0, :count])
        close(steps[row, 0], alone[0, count])


@torch.inference_mode()
def test_a_cache_that_knows_the_length_of_each_text_reads_it_in_chunks_as_whole(case: Case) -> None:
    """Whatever room it has; and a row that reaches the trained length has to be read again to go on."""
    ids, counts = case.ids(3, 40), [10, 40, TRAINED]
    cache = case.model.new_cache(3, 64)
    cache.aims[:] = counts
    first = case.model(ids[:, :9], cache)
    rest = case.model(ids[:, 9:], cache, counts=[count - 9 for count in counts])
    for row, count in enumerate(counts):
        alone = theirs(case, ids[row : row + 1, :count])[0]
        close(torch.cat((first[row], rest[row]))[:count], alone)
    assert cache.outgrown() == [2]
    with pytest.raises(ValueError, match="row 2 holds 24 positions with the angles of another length"):
        case.model(ids[:, :1], cache)
    cache.lengths[2] = 0
    again = case.model(ids[:, : TRAINED + 1], cache, counts=[1, 0, TRAINED + 1])
    close(again[2], theirs(case, ids[2:, : TRAINED + 1])[0])
    assert cache.outgrown() == []


@pytest.mark.parametrize("room", [TRAINED, 40])
def test_slices_have_the_same_factors_as_the_whole(case: Case, room: int) -> None:
    ids = case.ids(2, TRAINED)
    specs = ["b 0-1", "1-3 e"]
    caches = [case.part(spec).new_cache(2, room) for spec in specs]
    found = []
    with torch.inference_mode():
        for x in ids.split(9, dim=1):
            for spec, cache in zip(specs, caches, strict=True):
                x = case.part(spec)(x, cache)
            found.append(x)
    assert torch.equal(torch.cat(found, dim=1), ours(case, ids, room=room, chunk=9))


def test_a_window_keeps_no_more_than_it_needs() -> None:
    """The 2047 positions that Phi-3-mini-4k sees, and the spare ones for rolling back, whatever the length."""
    with torch.device("meta"):
        model = phi3.Model(phi3.PRESETS["Phi-3-mini-4k"], "3-4")
    assert model.new_cache(1, 4096).k[3].shape == (1, 32, 2047 + SPARE, 96)


def test_the_file_keeps_its_fused_projections(case: Case) -> None:
    shapes = {name: tuple(p.shape) for name, p in case.model.named_parameters()}
    assert shapes["mid.1.attention.qkv.weight"] == (4 * 8 + 2 * 2 * 8, 32)
    assert shapes["mid.1.mlp.gate_up.weight"] == (2 * 56, 32)


def test_an_unnamed_trained_length_is_that_of_phi_3(tmp_path: Path) -> None:
    """As Phi3Config has it; the length of the rotary settings, which transformers overlooks, is read where it is."""
    rope = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}
    raw = {**FAMILY.config("window of two"), "max_position_embeddings": 8192, "rope_scaling": rope}
    del raw["original_max_position_embeddings"]
    assert phi3.Config.from_hf(raw).rope.original_max_positions == 4096
    assert phi3.Config.from_hf(raw).rope.factor == 2.0
    rope["original_max_position_embeddings"] = 1024
    config = phi3.Config.from_hf(raw)
    assert (config.rope.original_max_positions, config.rope.factor) == (1024, 8.0)
    llm_blocks.save(llm_blocks.new_model(config), tmp_path / "saved")
    import transformers

    theirs = transformers.AutoConfig.from_pretrained(tmp_path / "saved")
    assert theirs.rope_parameters["original_max_position_embeddings"] == 1024
