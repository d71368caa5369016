"""What each tokenizer format provides; `Tokenizer` adds the rules of the folder on top."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_IDS = 2**31  # no vocabulary reaches this; the libraries take no larger integers


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A string that always is one token. lstrip, rstrip: the token takes the white space on that side with it."""

    content: str
    id: int
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True, kw_only=True)
class DecodeRule:
    """How ids become text, one id at a time.

    piece: id -> UTF-8 fragment (bytes), whole text (str), or None for an id without a token.
    first: the same for the first id of a text, where it differs.
    strip: the leading space that the encoder put before the text: "no"; "one" of the whole text; "piece": one of the
    first non-empty piece; "pieces": one of each piece until there is text.
    bytewise: each byte that is no UTF-8 becomes one U+FFFD (sentencepiece); else each maximal part (Unicode §3.9).
    whole: a decoder that can't work id by id: the text comes at the end, from this function.
    """

    piece: Callable[[int], bytes | str | None]
    first: Callable[[int], bytes | str | None] | None = None
    strip: str = "no"
    bytewise: bool = False
    whole: Callable[[Sequence[int]], str] | None = None


class Backend(Protocol):
    """One tokenizer format.

    names, prefix and suffix are what its own file says: {"bos_token": "<s>", ...}; ids before and after a text.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def names(self) -> Mapping[str, str]: ...

    @property
    def prefix(self) -> tuple[int, ...]: ...

    @property
    def suffix(self) -> tuple[int, ...]: ...

    @property
    def rule(self) -> DecodeRule: ...

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of the text, without BOS or EOS."""
        ...

    def id_to_token(self, token_id: int) -> str | None:
        """The token's string, None where there is none."""
        ...

    def token_to_id(self, token: str) -> int | None:
        """The string's id, None where it is no token."""
        ...
