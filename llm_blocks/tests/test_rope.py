"""Rotary embeddings: against transformers' own functions, and properties of the method."""

import math
from typing import Any

import pytest
import torch

from llm_blocks import (
    ConfigKeys,
    Rope,
    attention_scale,
    pairs_to_halves,
    parse_rope,
    rope_frequencies,
    rope_table,
    rope_to_hf,
    rotate,
)

LLAMA3: dict[str, Any] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
YARN: dict[str, Any] = {"factor": 8.0, "original_max_position_embeddings": 512}

SETTINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "llama3", "factor": 8.0, **LLAMA3},
    {"rope_type": "llama3", "factor": 32.0, **LLAMA3, "high_freq_factor": 2.0},
    {"rope_type": "yarn", **YARN},
    {"rope_type": "yarn", **YARN, "truncate": False, "beta_fast": 20.0, "beta_slow": 3.0},
    {"rope_type": "yarn", **YARN, "mscale": 0.5, "mscale_all_dim": 1.5},
    {"rope_type": "yarn", **YARN, "attention_factor": 0.8},
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 4},
]


def _parse(raw: dict[str, Any], max_positions: int = 2048) -> Rope:
    keys = ConfigKeys(raw)
    rope = parse_rope(keys, max_positions=max_positions)
    keys.finish(inert=())
    return rope


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_tables_equal_those_of_transformers(settings: dict[str, Any], theta: float) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = settings | {"rope_theta": theta}
    theirs = LlamaRotaryEmbedding(LlamaConfig(hidden_size=128, num_attention_heads=4, rope_parameters=dict(parameters)))
    rope, positions = _parse({"rope_parameters": parameters}), torch.arange(3000)[None]
    cos, sin = theirs(torch.zeros(1), positions)
    ours_cos, ours_sin = rope_table(rope, 32, positions)
    torch.testing.assert_close(rope_frequencies(rope, 32), theirs.inv_freq, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours_cos[0, 0], cos[0], rtol=0, atol=5e-4)  # one ulp of a frequency times 3000
    signs = torch.tensor([-1.0] * 16 + [1.0] * 16)  # our table holds the signs of the rotation
    torch.testing.assert_close(ours_sin[0, 0], sin[0] * signs, rtol=0, atol=5e-4)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_settings_are_given_back(settings: dict[str, Any]) -> None:
    rope = _parse({"rope_parameters": settings | {"rope_theta": 1234.5}})
    assert _parse({"rope_parameters": rope_to_hf(rope)}) == rope


def test_an_unknown_kind_of_any_length_is_told_in_a_sentence() -> None:
    """All of it was: megabytes, where the file had them."""
    with pytest.raises(ValueError, match=r"rope_type 'x{200}' is not supported; supported are default") as caught:
        _parse({"rope_scaling": {"rope_type": "x" * 300_000}})
    assert len(str(caught.value)) < 400


def test_dynamic_settings_are_given_back_without_the_models_own_length() -> None:
    rope = _parse({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, max_positions=77)
    assert rope.original_max_positions == 77
    assert rope_to_hf(rope) == {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}


def test_dynamic_base_grows_with_each_rows_own_length() -> None:
    rope = Rope(kind="dynamic", factor=2.0, original_max_positions=16)
    short, long = rope_frequencies(rope, 8, lengths=[10, 40])
    torch.testing.assert_close(short[0], rope_frequencies(Rope(), 8))
    base = 10_000 * (2.0 * 40 / 16 - 1) ** (8 / 6)
    torch.testing.assert_close(long[0], base ** -(torch.arange(0, 8, 2) / 8), rtol=1e-6, atol=0)


def test_the_dynamic_base_has_no_value_for_heads_of_two_dimensions() -> None:
    with pytest.raises(ValueError, match="more than 2 dimensions"):
        rope_frequencies(Rope(kind="dynamic", original_max_positions=4), 2, lengths=[5])


def test_yarn_scale_defaults_to_the_papers_formula() -> None:
    assert attention_scale(Rope(kind="yarn", factor=16.0, original_max_positions=64)) == 0.1 * math.log(16) + 1
    assert attention_scale(Rope(kind="linear", factor=16.0)) == 1.0


def test_products_of_rotated_heads_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8)
    table = rope_table(Rope(theta=100.0), 8, torch.arange(20)[None])
    all_q, all_k = rotate(q.expand(1, 1, 20, 8), table)[0, 0], rotate(k.expand(1, 1, 20, 8), table)[0, 0]
    products = all_q @ all_k.T
    for distance in range(5):
        diagonal = products.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
    assert products.diagonal(0)[0] != products.diagonal(-1)[0]


def test_both_spellings_mean_the_same() -> None:
    scaling = {"factor": 8.0, **LLAMA3}
    new = _parse({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}})
    assert _parse({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **scaling}}) == new
    assert _parse({"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}}) == new
    assert new.original_max_positions == 256
    assert _parse({"rope_theta": 5e5, "rope_scaling": None}) == Rope(theta=5e5)
    assert _parse({}) == Rope()


def test_the_trained_length_defaults_to_the_models_and_one_beside_the_settings_wins() -> None:
    settings = {"type": "yarn", "factor": 2.0}
    assert _parse({"rope_scaling": settings}).original_max_positions == 2048
    both = {"rope_scaling": settings | {"original_max_position_embeddings": 9}, "original_max_position_embeddings": 8}
    assert _parse(both).original_max_positions == 8


def test_a_trained_length_beside_a_linear_factor_changes_nothing() -> None:
    """transformers writes it back for such a file, and the linear kind has no use for it."""
    settings = {"rope_type": "linear", "factor": 2.0}
    assert _parse({"rope_scaling": settings | {"original_max_position_embeddings": 9}}) == Rope(
        kind="linear", factor=2.0
    )
    with pytest.raises(ValueError, match="'original_max_position_embeddings' = 9"):  # could mean either length there
        _parse({"rope_scaling": settings | {"rope_type": "dynamic", "original_max_position_embeddings": 9}})


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ({"rope_scaling": {"type": "mrope", "factor": 2.0}}, "rope_type 'mrope' is not supported"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "lacks the key 'short_factor'"),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0, 2.0]}},
            "short_factor has 1 numbers and long_factor 2",
        ),
        ({"rope_scaling": {"type": "linear"}}, "lacks the key 'factor'"),
        ({"rope_scaling": {"type": "linear", "facotr": 2.0}}, "lacks the key 'factor'; it has 'facotr'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 3.0}}, "'beta_fast' = 3.0"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor .* a number above 0, got 0"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor .* a number, got '2'"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "factor .* got True"),
        ({"rope_scaling": {"factor": 2.0}}, "'factor' = 2.0"),
        ({"rope_theta": 1.0}, "rope_theta must be above 1"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0} | LLAMA3 | {"high_freq_factor": 1.0}}, "must be above low"),
        ({"rope_scaling": "linear"}, "rope_scaling .* an object"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "keep the right one"),
        (
            {
                "rope_parameters": {"rope_type": "linear", "factor": 2.0},
                "rope_scaling": {"type": "linear", "factor": 4.0},
            },
            "disagree",
        ),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(raw: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        _parse(raw)


LONG = Rope(
    kind="longrope", factor=4.0, original_max_positions=8, short_factor=(1.0, 2.0), long_factor=(3.0, 5.0), theta=100.0
)


def test_longrope_turns_by_what_a_row_may_become() -> None:
    """arXiv 2402.13753: theta^(-2i/d) over a factor; the long ones where a row may pass the trained length."""
    base = torch.tensor([1.0, 0.1])
    torch.testing.assert_close(rope_frequencies(LONG, 4, lengths=[8, 3]), base / torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(rope_frequencies(LONG, 4, lengths=[9, 30]), base / torch.tensor([3.0, 5.0]))
    mixed = rope_frequencies(LONG, 4, lengths=[9, 8])
    torch.testing.assert_close(mixed[:, 0], base / torch.tensor([[3.0, 5.0], [1.0, 2.0]]))
    assert attention_scale(LONG, lengths=[8]) == pytest.approx(math.sqrt(1 + math.log(4) / math.log(8)))


def test_longrope_may_scale_short_and_long_rows_by_numbers_of_the_file() -> None:
    rope = Rope(**{**vars(LONG), "short_mscale": 1.5, "long_mscale": 2.0})
    assert attention_scale(rope, lengths=[8, 9]) == [1.5, 2.0]
    cos, _ = rope_table(rope, 4, torch.zeros(1, 1, dtype=torch.int64), lengths=[8, 9])
    assert cos[:, 0, 0].tolist() == [[1.5] * 4, [2.0] * 4]


def test_longrope_settings_are_read_in_both_spellings_and_given_back() -> None:
    lists = {"short_factor": [1.0, 2.0], "long_factor": [3, 5]}
    old = {"rope_scaling": {"type": "su", **lists}, "original_max_position_embeddings": 8, "rope_theta": 100.0}
    assert _parse(old, max_positions=32) == LONG
    assert _parse({"rope_parameters": rope_to_hf(LONG)}, max_positions=32) == LONG


def test_a_part_of_a_head_turns_and_the_rest_stays() -> None:
    rope = Rope(partial=0.5)
    x, positions = torch.randn(1, 2, 3, 8), torch.arange(3)[None]
    found = rotate(x, rope_table(rope, 8, positions))
    torch.testing.assert_close(found[..., :4], rotate(x[..., :4], rope_table(Rope(), 4, positions)))
    assert torch.equal(found[..., 4:], x[..., 4:])
    with pytest.raises(ValueError, match="must be an even number"):
        rope_frequencies(Rope(partial=0.4), 8)


@pytest.mark.parametrize("raw", [{"partial_rotary_factor": 0.25}, {"rope_parameters": {"partial_rotary_factor": 0.25}}])
def test_a_partial_embedding_is_read_where_the_architecture_allows_it(raw: dict[str, Any]) -> None:
    assert parse_rope(ConfigKeys(raw), max_positions=8, partial=1.0) == Rope(partial=0.25)
    with pytest.raises(ValueError, match="only whole heads are rotated"):
        parse_rope(ConfigKeys(raw), max_positions=8)
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        parse_rope(ConfigKeys({"partial_rotary_factor": 1.5}), max_positions=8, partial=1.0)


def test_neighbours_that_turn_become_halves_that_turn() -> None:
    """Products of interleaved queries and keys are those of complex numbers turned by their positions."""
    q, k = torch.randn(2, 1, 1, 1, 6)
    turned = [
        rotate(pairs_to_halves(x), rope_table(Rope(), 6, torch.tensor([[position]])))
        for x, position in ((q, 5), (k, 2))
    ]
    angles = rope_frequencies(Rope(), 6) * 3
    spin = torch.polar(torch.ones(3), angles)
    complex_q, complex_k = (torch.view_as_complex(x.reshape(3, 2)) for x in (q, k))
    wanted = (complex_q * spin * complex_k.conj()).real.sum()
    torch.testing.assert_close((turned[0] * turned[1]).sum(), wanted)
