"""Stories that the model that ships has never seen, as one text.

`python -m tools.demo_model.held_out > held-out.txt`
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice

from .chats import documents
from .tokenizer import BOS, EOS


def text(stories: int, *, plain: bool = False) -> str:
    """So many stories of the held-out side, always the same, each between the tokens that it has in training.

    With `plain` there are empty lines instead, for other models. The first 100 are those of the card's held-out loss.
    """
    held = (document for document in documents("stories", held=True) if document.is_story)
    before, after = ("", "\n\n") if plain else (BOS, EOS)
    return "".join(f"{before}{document.text}{after}" for document in islice(held, stories))


def main(arguments: list[str] | None = None) -> None:
    """Write the stories to stdout."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.held_out", description=main.__doc__)
    parser.add_argument("--stories", type=int, default=500, help="how many")
    parser.add_argument("--plain", action="store_true", help="empty lines instead of special tokens, for other models")
    options = parser.parse_args(arguments)
    sys.stdout.write(text(options.stories, plain=options.plain))


if __name__ == "__main__":
    main()
