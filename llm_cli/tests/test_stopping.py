import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_cli.stopping import StopText


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    stop = StopText(stops)
    out = [stop.push(piece) for piece in pieces]
    return [*out, stop.finish()], stop.stopped


def test_text_without_stop_strings_passes_at_once():
    assert run([], ["ab", "c"]) == (["ab", "c", ""], False)


def test_a_stop_string_across_pieces_never_shows():
    assert run(["END"], ["abE", "N", "Dxyz", "more"]) == (["ab", "", "", "", ""], True)


def test_a_beginning_that_comes_to_nothing_is_given_back():
    assert run(["END"], ["abE", "N", "T"]) == (["ab", "", "ENT", ""], False)


def test_what_is_held_at_the_end_is_text():
    assert run(["END"], ["abEN"]) == (["ab", "EN"], False)


def test_the_earliest_of_several_stop_strings_counts():
    assert run(["later", "soon"], ["now soon later"]) == (["now ", ""], True)


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=3),
    st.lists(st.text("ab", max_size=3), max_size=8),
)
def test_pieces_join_to_the_text_before_the_first_stop_string(stops: list[str], pieces: list[str]):
    text = "".join(pieces)
    cuts = [text.find(stop) for stop in stops if stop in text]
    out, stopped = run(stops, pieces)
    # A stop string that ends earlier is seen first, so the cut may lie before a longer match that begins earlier.
    assert stopped == bool(cuts)
    assert text.startswith("".join(out))
    assert not any(stop in "".join(out) for stop in stops)
    if not cuts:
        assert "".join(out) == text


@pytest.mark.parametrize("size", [1, 2, 5])
def test_text_that_can_be_no_stop_string_is_never_held(size: int):
    stop = StopText(["x" * size])
    assert stop.push("abc") == "abc"
