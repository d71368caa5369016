"""How a tokenizer makes ids of text, in the words of GGUF; `vocabulary` adds the tokens themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

SPACE = "▁"  # what stands for a space in vocabularies that aren't made of bytes
NORMALISES = "this tokenizer normalises text {}, llama.cpp does not: a letter written otherwise becomes other tokens"


class Kind(IntEnum):
    """What a token is; the numbers are GGUF's, and sentencepiece's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Rules:
    """llama.cpp's names of the algorithm and of the way to cut text before it, and what the algorithm goes by.

    `kinds` are those of tokens that aren't ordinary ones, `settings` further metadata by the last word of their keys,
    `notes` where llama.cpp will differ.
    """

    model: str
    pre: str = "default"
    merges: tuple[str, ...] = ()
    scores: Mapping[int, float] | None = None
    kinds: Mapping[int, Kind] = field(default_factory=dict)
    settings: Mapping[str, bool | bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def flat(step: Mapping[str, Any] | None, inside: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a tokenizer.json's pre_tokenizer or normalizer, which may be one or a sequence, or nested ones."""
    if step is None:
        return
    if step.get("type") != "Sequence":
        yield step
        return
    for inner in step.get(inside, ()):
        yield from flat(inner, inside)
