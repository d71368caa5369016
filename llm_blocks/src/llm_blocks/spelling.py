"""Whether a name that nobody knows is a misspelling of one that is known."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

_DIGITS = re.compile(r"[0-9]+")


def misspelt(name: str, known: Iterable[str], *, cutoff: float = 0.85) -> str | None:
    """The known name that `name` plausibly stands for: nearly alike, or with letters swapped; None where none is.

    Names with other numbers are other things, however alike they look: gemma4 is no misspelt gemma3.
    """
    alike = sorted(each for each in known if _DIGITS.findall(each) == _DIGITS.findall(name))
    swapped = [each for each in alike if sorted(each) == sorted(name)]
    return next(iter(swapped or get_close_matches(name, alike, n=1, cutoff=cutoff)), None)
