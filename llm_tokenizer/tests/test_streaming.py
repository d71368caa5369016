"""A stream of any ids, cut anywhere, is the whole text; no half character ever shows."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from llm_tokenizer import Tokenizer, TokenizerError

relaxed = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> tuple[list[str], str]:
    stream = tokenizer.stream(skip_special=skip_special)
    return [stream.push(i) for i in ids], stream.finish()


@pytest.fixture(scope="module")
def byte_level(shared_folder: Any) -> Tokenizer:
    """One token a byte, and three special tokens."""
    return Tokenizer.load(shared_folder.path)


def build(path: Path, vocab: list[str], decoder: object) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocab)}, merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    return tokenizer


@relaxed
@given(text=st.text(max_size=40))
def test_byte_level_text_comes_whole_character_by_whole_character(byte_level: Tokenizer, text: str) -> None:
    ids = byte_level.encode(text, parse_special=False)
    parts, rest = streamed(byte_level, ids)
    assert "".join(parts) == text
    assert rest == ""
    assert all(len(part) <= 1 for part in parts)


@relaxed
@given(ids=st.lists(st.integers(0, 260), max_size=40), skip=st.booleans())
def test_byte_level_of_any_bytes_equals_the_library(byte_level: Tokenizer, ids: list[int], skip: bool) -> None:
    library = tokenizers.Tokenizer.from_file(str(byte_level.files[0]))
    parts, rest = streamed(byte_level, ids, skip_special=skip)
    assert "".join(parts) + rest == library.decode(ids, skip_special_tokens=skip)
    assert byte_level.decode(ids, skip_special=skip) == "".join(parts) + rest
    assert len(rest) <= 3


PIECES = ["▁", "▁a", "b", "▁▁c▁", "é", "漢", "x<", *(f"<0x{byte:02X}>" for byte in range(256))]
LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


@relaxed
@given(ids=st.lists(st.one_of(st.integers(0, 6), st.integers(7, 263)), max_size=30))
def test_byte_fallback_of_any_ids(tmp_path: Path, ids: list[int]) -> None:
    """For one bad byte the library replaces a whole run of byte tokens; sentencepiece and we only that byte."""
    library = build(tmp_path, PIECES, LLAMA)
    tokenizer = Tokenizer.load(tmp_path)
    parts, rest = streamed(tokenizer, ids)
    whole = tokenizer.decode(ids)
    assert "".join(parts) + rest == whole
    expected = library.decode(ids)
    if "\ufffd" not in expected:
        assert whole == expected
    assert whole.count("\ufffd") <= expected.count("\ufffd")


@pytest.mark.parametrize("text", ["😀", "नमस्ते", "👩‍👩‍👧", "e\u0301", "a😀b"])
def test_byte_fallback_holds_back_only_the_unfinished_character(tmp_path: Path, text: str) -> None:
    build(tmp_path, PIECES, LLAMA)
    tokenizer = Tokenizer.load(tmp_path)
    ids = [7 + byte for byte in text.encode()]
    parts, rest = streamed(tokenizer, ids)
    assert [part for part in parts if part] == list(text)
    assert rest == ""


def test_an_unfinished_character_ends_as_replacement_characters(tmp_path: Path) -> None:
    build(tmp_path, PIECES, LLAMA)
    tokenizer = Tokenizer.load(tmp_path)
    parts, rest = streamed(tokenizer, [7 + 0xF0, 7 + 0x9F, 7 + 0x98])
    assert (parts, rest) == (["", "", ""], "\ufffd\ufffd\ufffd")


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.Metaspace(),
        decoders.Metaspace(prepend_scheme="never"),
        decoders.Metaspace(prepend_scheme="first"),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
        decoders.Replace("▁", " "),
        decoders.WordPiece("b"),
        decoders.CTC(),
    ],
    ids=["none", "metaspace", "metaspace-never", "metaspace-first", "fuse", "replace", "wordpiece", "ctc"],
)
@relaxed
@given(ids=st.lists(st.integers(0, 8), max_size=12))
def test_other_decoders_equal_the_library(tmp_path: Path, decoder: object, ids: list[int]) -> None:
    library = build(tmp_path, PIECES[:7], decoder)
    tokenizer = Tokenizer.load(tmp_path)
    parts, rest = streamed(tokenizer, ids)
    assert "".join(parts) + rest == library.decode(ids)


def test_a_stream_starts_anew_after_finish(byte_level: Tokenizer) -> None:
    stream = byte_level.stream()
    stream.push(byte_level.encode("é")[0])
    assert stream.finish() == "\ufffd"
    assert stream.push(byte_level.encode("a")[0]) == "a"


def test_the_fill_of_ended_rows_is_refused_and_padding_of_the_vocabulary_is_empty(byte_level: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="ended rows"):
        byte_level.decode([-1])
    assert byte_level.decode([10**6]) == ""
    assert byte_level.id_to_token(10**6) is None


def test_special_tokens_show_only_when_asked(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("<s>a</s>", bos=False)
    assert len(ids) == 3
    assert byte_level.decode(ids) == "a"
    assert byte_level.decode(ids, skip_special=False) == "<s>a</s>"
    assert json.loads(byte_level.files[0].read_text())["added_tokens"][0]["content"] == "<s>"


@pytest.mark.parametrize("too_large", [2**31, 2**32, 2**40, 2**70])
def test_an_id_that_no_library_takes_is_empty_too(byte_level: Tokenizer, too_large: int) -> None:
    """From 2**32 on it was the OverflowError of the tokenizers library."""
    assert byte_level.decode([too_large]) == ""
    assert byte_level.id_to_token(too_large) is None
