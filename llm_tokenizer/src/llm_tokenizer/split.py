"""Cutting the strings that always are one token out of a text."""

import re
from collections.abc import Iterable, Iterator

from llm_tokenizer.backend import AddedToken


class Splitter:
    """Finds added tokens, the leftmost first and the longest of those, with the white space that they take along."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        ordered = sorted((token for token in tokens if token.content), key=lambda token: -len(token.content))
        self._ids = {token.content: token.id for token in ordered}
        # The token's own string is the group that matched; the white space around it is outside the group.
        self._pattern = re.compile("|".join(map(_pattern, ordered))) if ordered else None

    def split(self, text: str) -> Iterator[str | int]:
        """Plain text (possibly empty) and ids in turn; the first part is always text."""
        start = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            yield text[start : match.start()]
            yield self._ids[match[match.lastindex or 0]]
            start = match.end()
        yield text[start:]


def _pattern(token: AddedToken) -> str:
    body = re.escape(token.content)
    if token.single_word:
        body = rf"(?<!\w){body}(?!\w)"
    before = r"\s*" if token.lstrip else ""
    after = r"\s*" if token.rstrip else ""
    return f"{before}({body}){after}"
