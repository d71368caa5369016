import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_sepweight import PartSpec


@pytest.mark.parametrize(
    ("text", "begin", "mid", "end"),
    [
        ("b", True, [], False),
        ("e", False, [], True),
        ("b e", True, [], True),
        ("b 0-5", True, [range(5)], False),
        ("55-60 e", False, [range(55, 60)], True),
        ("12-24", False, [range(12, 24)], False),
        ("0-5 50-55", False, [range(5), range(50, 55)], False),
        ("5-10 15-20 25-30", False, [range(5, 10), range(15, 20), range(25, 30)], False),
        ("  b   0-5\te ", True, [range(5)], True),
    ],
)
def test_specs_of_the_older_package_parse_alike(text, begin, mid, end):
    assert PartSpec.from_string(text) == PartSpec(begin=begin, mid=mid, end=end, is_full=False)


def test_full_is_everything_and_gets_its_range_when_resolved():
    spec = PartSpec.parse("f")
    assert (spec.begin, spec.mid, spec.end, spec.is_full) == (True, [], True, True)
    assert spec.resolve(32).mid == [range(32)]
    assert spec.resolve(0).mid == []


def test_ranges_are_half_open():
    assert list(PartSpec.parse("5-7 9-10").layers()) == [5, 6, 9]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("f e", "stands alone"),
        ("0-3 f", "stands alone"),
        ("e 0-3", "last"),
        ("0-3 b", "first"),
        ("b b", "first and once"),
        ("e e", "last and once"),
        ("b 1-3", "start at 0"),
        ("3-3", "empty"),
        ("5-3", "below"),
        ("0-5 4-6", "overlap"),
        ("0-999999", "100000"),
        ("1-", "not a range"),
        ("-1-3", "not a range"),
        ("٣-٥", "not a range"),
        ("0–3", "not a range"),
        ("B 0-3", "not a range"),
    ],
)
def test_broken_specs_say_which_rule(text, rule):
    with pytest.raises(ValueError, match=rule):
        PartSpec.parse(text)


def test_a_range_beyond_the_model_names_the_number_of_layers():
    with pytest.raises(ValueError, match=r"24-40.*has 32.*end at 32"):
        PartSpec.parse("24-40 e").resolve(32)


@st.composite
def specs(draw):
    bounds = sorted(draw(st.sets(st.integers(0, 100_000), max_size=8)))
    mid = [range(a, b) for a, b in zip(bounds[::2], bounds[1::2], strict=False)]
    begin = draw(st.booleans()) and (not mid or mid[0].start == 0)
    end = draw(st.booleans())
    full = not (begin or mid or end)
    return PartSpec(begin=begin or full, mid=mid, end=end or full, is_full=full)


@given(specs())
def test_a_spec_survives_being_written_and_parsed(spec):
    assert PartSpec.parse(str(spec)) == spec


@given(st.text(alphabet="bef 0123456789-", max_size=20))
def test_any_text_parses_or_is_refused_with_a_value_error(text):
    try:
        spec = PartSpec.parse(text)
    except ValueError:
        return  # any other exception fails the test
    assert PartSpec.parse(str(spec)) == spec
