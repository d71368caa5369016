"""Ids to text, one id at a time, holding back at most the three bytes of an unfinished character."""

import codecs
import operator
from collections.abc import Iterable
from typing import Protocol

from llm_tokenizer.backend import MAX_IDS, DecodeRule
from llm_tokenizer.errors import TokenizerError

REPLACEMENT = "\ufffd"


class _Utf8(Protocol):
    def decode(self, input: bytes, /, final: bool = False) -> str: ...


class _BytewiseUtf8:
    """Incremental UTF-8 where each bad byte is one U+FFFD, as sentencepiece's decoder has it."""

    def __init__(self) -> None:
        self._held = b""

    def decode(self, data: bytes, /, final: bool = False) -> str:
        held, text = self._held + data, []
        while held:
            size = _char_size(held)
            if size > len(held) and not final:
                break
            char = _char(held[:size]) if 0 < size <= len(held) else None
            text.append(REPLACEMENT if char is None else char)
            held = held[1 if char is None else size :]
        self._held = held
        return "".join(text)


def _char_size(held: bytes) -> int:
    """Bytes of the character that begins here, 0 where none can: known from the bytes at hand."""
    lead = held[0]
    size = (
        1
        if lead < 0x80
        else 2
        if 0xC2 <= lead < 0xE0
        else 3
        if 0xE0 <= lead < 0xF0
        else 4
        if 0xF0 <= lead < 0xF5
        else 0
    )
    return size if all(0x80 <= byte < 0xC0 for byte in held[1:size]) else 0


def _char(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


class TextStream:
    """Text of ids as they come: the pushed and finished parts joined are `decode` of all ids.

    push(id) returns the text that has become certain, often "". finish() returns the rest (U+FFFD for a character that
    never ended) and makes the stream ready for a new text.
    """

    def __init__(self, rule: DecodeRule, hidden: frozenset[int] = frozenset()) -> None:
        self._rule = rule
        self._hidden = hidden
        self._start()

    def _start(self) -> None:
        bytewise = self._rule.bytewise
        self._utf8: _Utf8 = _BytewiseUtf8() if bytewise else codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = self._rule.strip
        self._first = self._rule.first
        self._ids: list[int] = []

    def push(self, token_id: int) -> str:
        """Text that this id makes certain. Raises TokenizerError for a negative id; one past the vocabulary is ""."""
        token_id = operator.index(token_id)
        if token_id < 0:
            raise TokenizerError(f"An id is at least 0, this one is {token_id}; leave out the fill of ended rows.")
        if token_id in self._hidden or token_id >= MAX_IDS:
            return ""
        if self._rule.whole is not None:
            self._ids.append(token_id)
            return ""
        piece = (self._first or self._rule.piece)(token_id)
        if piece is None:
            return ""
        self._first = None
        return self._add(piece)

    def _add(self, piece: bytes | str) -> str:
        if isinstance(piece, bytes):
            text = self._utf8.decode(piece)
            return self._stripped(text) if self._strip == "one" else self._seen(text)
        held = self._utf8.decode(b"", final=True)
        if held and self._strip != "one":
            self._seen(held)
        return self._stripped(held + piece) if self._strip == "one" else held + self._stripped(piece)

    def _stripped(self, text: str) -> str:
        if self._strip == "no" or not text:
            return text
        cut = text[0] == " "
        text = text[cut:]
        if text or not (cut and self._strip == "pieces"):
            self._strip = "no"
        return text

    def _seen(self, text: str) -> str:
        """Text from bytes: it counts as text, but its own spaces are not the encoder's."""
        if text:
            self._strip = "no"
        return text

    def finish(self) -> str:
        """The text still held back; afterwards the stream is new."""
        if self._rule.whole is not None:
            text = self._rule.whole(self._ids)
        else:
            text = self._utf8.decode(b"", final=True)
        self._start()
        return text

    def decode(self, ids: Iterable[int]) -> str:
        """Text of all these ids at once."""
        return "".join([*map(self.push, ids), self.finish()])
