"""Stops, half characters, budgets and the order of pieces, with a model that says what it is told."""

from typing import Any

import pytest

from llm_cli.generation import Generation
from llm_cli.options import Options
from llm_tokenizer import Tokenizer

END = 5


@pytest.fixture
def say(scripted: Any, byte_tokenizer: Tokenizer) -> Any:
    """Runs a generation whose model says a text and then the end id."""

    def say(text: str | bytes, *, limit: int = 100, **options: Any) -> Generation:
        script = [byte_tokenizer.encode(chr(b))[0] for b in text] if isinstance(text, bytes) else None
        script = script or byte_tokenizer.encode(str(text), bos=False)
        prompt = byte_tokenizer.encode("question", bos=False)
        model = scripted([*script, END], len(prompt))
        settings = {"max_new_tokens": 50, "temperature": 0, **options}
        return Generation(model, [prompt], Options(**settings), tokenizer=byte_tokenizer, limit=limit)

    return say


def test_an_end_id_ends_the_text_and_is_among_the_ids(say: Any):
    done = say("hello").finish()[0]
    assert (done.text, done.finish_reason, done.prompt_tokens) == ("hello", "stop", 8)
    assert len(done.token_ids) == 6
    assert done.token_ids[-1] == END


def test_pieces_join_to_the_text_and_hold_whole_characters(say: Any):
    run = say("naïve 🦙!")
    pieces = [piece.text for piece in run]
    assert "".join(pieces) == run.completions[0].text == "naïve 🦙!"
    assert all("\ufffd" not in piece for piece in pieces)
    assert pieces.count("🦙") == 1


def test_a_stop_string_across_tokens_neither_shows_nor_leaks_into_pieces(say: Any):
    run = say("one two STOP three", stop=["STOP", "never"])
    assert "".join(piece.text for piece in run) == "one two "
    done = run.completions[0]
    assert (done.text, done.finish_reason) == ("one two ", "stop")
    assert len(done.token_ids) == len("one two STOP")


def test_the_beginning_of_a_stop_string_at_the_end_is_text(say: Any):
    assert say("one two STO", stop="STOP").finish()[0].text == "one two STO"


def test_a_stop_id_ends_like_an_end_id(say: Any, byte_tokenizer: Tokenizer):
    comma = byte_tokenizer.encode(",", bos=False)[0]
    done = say("one, two", stop=[comma]).finish()[0]
    assert (done.text, done.finish_reason) == ("one", "stop")


def test_the_budget_ends_with_length_and_shows_what_was_held_back(say: Any):
    done = say("one two STOP", stop="STOP", max_new_tokens=10).finish()[0]
    assert (done.text, done.finish_reason, len(done.token_ids)) == ("one two ST", "length", 10)


def test_the_context_ends_the_answer_with_length(say: Any):
    done = say("hello hello", limit=12).finish()[0]
    assert (len(done.token_ids), done.finish_reason) == (4, "length")


def test_ignore_eos_goes_on_past_the_end_id_but_not_past_a_stop_id(say: Any):
    assert len(say("hi", ignore_eos=True, max_new_tokens=9).finish()[0].token_ids) == 9
    assert len(say("hi", ignore_eos=True, stop=[END], max_new_tokens=9).finish()[0].token_ids) == 3


def test_min_new_tokens_counts_for_stop_strings_too(say: Any):
    done = say("a. b. c. d.", stop=".", min_new_tokens=4).finish()[0]
    assert done.text == "a. b"


def test_bytes_that_are_no_text_show_as_replacement_at_the_end_only(scripted: Any, byte_tokenizer: Tokenizer):
    first_byte_of_two = byte_tokenizer.encode("é", bos=False)[0]
    model = scripted([first_byte_of_two], 1)
    options = Options(max_new_tokens=1, temperature=0)
    run = Generation(model, [[9]], options, tokenizer=byte_tokenizer, limit=100)
    assert [piece.text for piece in run] == ["\ufffd"]


def test_leaving_early_keeps_what_came(say: Any):
    run = say("hello")
    pieces = iter(run)
    next(pieces), next(pieces)
    done = run.completions[0]
    assert (done.text, done.finish_reason, len(done.token_ids)) == ("he", None, 2)


def test_without_a_tokenizer_there_are_ids_and_no_text(scripted: Any):
    run = Generation(scripted([7, 8, 9], 2), [[1, 2]], Options(max_new_tokens=3), tokenizer=None, limit=100)
    done = run.finish()[0]
    assert (done.text, done.token_ids) == (None, (7, 8, 9))


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[]], {}, "empty"),
        ([[3, 264]], {}, "264.*0 to 263"),
        ([[-1]], {}, "-1"),
        ([[1] * 100], {}, "100 tokens.*holds 100.*99"),
        ([[1], [1] * 120], {}, "120 tokens"),
        ([[1]], {"stop": "text"}, "tokenizer"),
        ([[1]], {"stop": [""]}, "stop"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens.*0"),
        ([[1]], {"num_samples": 0}, "num_samples.*0"),
        ([[1]], {"num_samples": 10**8}, "num_samples must be at most 4096"),  # it took all memory there was
        ([[1]], {"temperature": -1}, "temperature.*-1"),
        ([[1]], {"top_p": 0}, "top_p.*0"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    scripted: Any, prompts: list[list[int]], options: dict[str, Any], words: str
):
    with pytest.raises(ValueError, match=words):
        Generation(scripted([1], 1), prompts, Options(**options), tokenizer=None, limit=100)


def test_waiting_for_the_caller_is_no_time_of_ours(say: Any, monkeypatch: pytest.MonkeyPatch):
    """A slow reader of pieces made the speed look low: the clock ran on while the caller had the piece."""
    clock = [0.0]
    monkeypatch.setattr("llm_cli.generation.time.perf_counter", lambda: clock[0])
    run = say("hello")
    for _ in run:
        clock[0] += 100.0
    assert run.completions[0].seconds == 0.0
