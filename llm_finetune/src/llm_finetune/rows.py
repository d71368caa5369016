"""What a row of a data set is, and the errors of rows and files that can't be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class DataError(ValueError):
    """A data set that can't be used: what is wrong, and the way out."""


class RowError(DataError):
    """A row that can't be used. `where` is its file and line, `reason` what is wrong without values, to count by."""

    def __init__(self, where: str, what: str, expected: str, *, reason: str | None = None) -> None:
        super().__init__(f"{where}: {what}; expected {expected}; fix the row, or pass --data.on_bad_row skip")
        self.where = where
        self.reason = reason or what


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message. `train` None: as the setting `loss` says; `weight` multiplies that of its tokens.

    input: what the instruction of an Alpaca row is about, for styles that have a place of its own for it.
    extra: other keys of the message that a chat template may ask for (tool_calls, reasoning_content, ...).
    """

    role: str
    content: str | None
    input: str = ""
    train: bool | None = None
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Turns, at least one of them the assistant's; `tools` are JSON schemas for the chat template."""

    turns: tuple[Turn, ...]
    tools: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Text:
    """A document without turns, trained on as a whole."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Tokens made elsewhere; weights[t] belongs to the token at t as a target."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ways to go on after the same turns, the first of which is preferred."""

    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]


Row = Conversation | Text | Ids | Pair
