"""What is said of a model for GGUF: rotary metadata, windows, and forms found by entry point."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from llm_blocks import GgufForm, Rope, gguf_form, gguf_rope, gguf_sizes, within_window
from llm_blocks.gguf import GROUP


def test_plain_rotary_embeddings_are_a_base_and_a_width() -> None:
    assert gguf_rope(Rope(theta=5e5, partial=0.25), 64) == (
        {"rope.freq_base": 5e5, "rope.dimension_count": 16},
        {},
    )


def test_stretching_evenly() -> None:
    values, factors = gguf_rope(Rope(kind="linear", factor=8.0), 64)
    assert (values["rope.scaling.type"], values["rope.scaling.factor"]) == ("linear", 8.0)
    assert not factors


def test_llama_3_divides_each_frequency_by_a_factor() -> None:
    """Short wavelengths stay, long ones are stretched, those between are blended."""
    rope = Rope(kind="llama3", theta=5e5, factor=8.0, original_max_positions=8192)
    values, factors = gguf_rope(rope, 128, factors=True)
    bent = factors["rope_freqs"]
    assert "rope.scaling.type" not in values
    assert len(bent) == 64
    assert list(bent) == sorted(bent)
    assert set(bent[:29]) == {1.0}
    assert bent[35:] == pytest.approx([8.0] * 29)
    wavelength = 2 * math.pi * 5e5 ** (2 * 31 / 128)
    blend = (8192 / wavelength - 1) / 3
    assert bent[31] == pytest.approx(1 / ((1 - blend) / 8 + blend), rel=1e-5)


def test_longrope_has_two_tables_and_one_factor_of_attention() -> None:
    tables = {"short_factor": (1.0, 1.5), "long_factor": (2.0, 9.0)}
    rope = Rope(kind="longrope", factor=32.0, original_max_positions=4096, **tables)
    values, factors = gguf_rope(rope, 4, factors=True)
    assert factors == {"rope_factors_short": (1.0, 1.5), "rope_factors_long": (2.0, 9.0)}
    assert values["rope.scaling.original_context_length"] == 4096
    assert values["rope.scaling.attn_factor"] == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    same = Rope(kind="longrope", original_max_positions=8, short_mscale=1.25, long_mscale=1.25, **tables)
    assert gguf_rope(same, 4, factors=True)[0]["rope.scaling.attn_factor"] == 1.25
    two = Rope(kind="longrope", original_max_positions=8, short_mscale=1.25, long_mscale=1.5, **tables)
    with pytest.raises(ValueError, match="one factor of attention for LongRoPE"):
        gguf_rope(two, 4, factors=True)


def test_yarn_says_its_factor_of_attention_where_it_is_not_the_usual_one() -> None:
    """llama.cpp multiplies by 0.1 ln(s) + 1 itself."""
    rope = Rope(kind="yarn", factor=4.0, original_max_positions=32)
    values, _ = gguf_rope(rope, 64)
    assert values["rope.scaling.original_context_length"] == 32
    assert "rope.scaling.attn_factor" not in values
    own, _ = gguf_rope(Rope(kind="yarn", factor=4.0, original_max_positions=32, attention_factor=1.0), 64)
    assert own["rope.scaling.attn_factor"] == pytest.approx(1 / (0.1 * math.log(4) + 1))


@pytest.mark.parametrize(
    ("rope", "why"),
    [
        (Rope(kind="dynamic", factor=2.0, original_max_positions=32), "no dynamic rotary embeddings"),
        (Rope(kind="llama3", factor=2.0, original_max_positions=32), "of the kind llama3 for this architecture"),
        (Rope(kind="yarn", factor=2.0, original_max_positions=32, beta_fast=16.0), "YaRN with beta_fast 32"),
        (Rope(kind="yarn", factor=2.0, original_max_positions=32, truncate=False), "not 32, 1 and False"),
    ],
)
def test_what_llama_cpp_has_not_is_refused(rope: Rope, why: str) -> None:
    with pytest.raises(ValueError, match=f"this model can't be written as GGUF: .*{why}.*`llm export hf`"):
        gguf_rope(rope, 64)


def test_a_window_ends_the_context_where_there_is_none() -> None:
    form = GgufForm(architecture="llama", values={"context_length": 100})
    assert within_window(form, None) is form
    assert within_window(form, 100) is form
    shorter = within_window(form, 32)
    assert shorter.values["context_length"] == 32
    assert "a context of 32 positions instead of 100" in shorter.notes[0]


def test_sizes_have_the_keys_of_every_decoder() -> None:
    config = SimpleNamespace(vocab_size=7, max_positions=9, dim=4, num_layers=2, hidden_dim=5, num_heads=2)
    sizes = gguf_sizes(config, num_kv_heads=1, head_dim=3)
    assert sizes["attention.head_count_kv"] == 1
    assert sizes["attention.key_length"] == sizes["attention.value_length"] == 3
    assert all(isinstance(value, int) for value in sizes.values())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GgufForm:
    """The only family that is installed."""
    form = GgufForm(architecture="toy", values={})
    entry = SimpleNamespace(name="toy", load=lambda: lambda config: form)
    monkeypatch.setattr("llm_blocks.gguf.entry_points", lambda *, group: [entry] if group == GROUP else [])
    return form


def test_a_family_announces_its_form_by_entry_point(toy: GgufForm) -> None:
    assert gguf_form(SimpleNamespace(model_type="toy", num_layers=512)) is toy


def test_a_family_that_says_nothing_is_refused(toy: GgufForm) -> None:
    with pytest.raises(ValueError, match=r"nothing tells how llama\.cpp has the model_type 'mamba', only for toy"):
        gguf_form(SimpleNamespace(model_type="mamba"))


def test_more_layers_than_llama_cpp_can_count_are_refused(toy: GgufForm) -> None:
    with pytest.raises(ValueError, match="at most 512 layers, this model 513"):
        gguf_form(SimpleNamespace(model_type="toy", num_layers=513))
