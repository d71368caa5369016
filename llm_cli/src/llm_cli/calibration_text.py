"""The text that a quantization is fitted to: read from a file and cut into samples. Shapes: S samples, T time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llm_cli.output import human_bytes
from llm_tokenizer import Tokenizer

SAMPLES, LENGTH = 128, 512
REPORTED = 32  # one sample in so many is held out for the report
LARGEST = 256 * 10**6  # bytes of a file, all of which is encoded


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Ids (S, T) to calibrate with, and those held out (R, T), evenly spread over a text."""

    ids: Tensor
    held: Tensor


def read_ids(file: Path, tokenizer: Tokenizer, *, vocab_size: int) -> list[int]:
    """The ids of a text file, without those that begin a text.

    ValueError for one that is empty, too large or no text, and for ids of another model.
    """
    size = file.stat().st_size
    if size > LARGEST:
        raise ValueError(
            f"'{file}' has {human_bytes(size)}, and up to {human_bytes(LARGEST)} are read; give a part of it"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"'{file}' is no text in UTF-8; give a plain text file of the kind that the model is to write")
    if not text.strip():
        raise ValueError(f"'{file}' is empty; give a text of the kind that the model is to write")
    ids = tokenizer.encode(text, bos=False)
    unknown = next((i for i in ids if i >= vocab_size), None)
    if unknown is not None:
        raise ValueError(
            f"the tokenizer makes the id {unknown} of '{file}', but this model knows the ids 0 to {vocab_size - 1}, so "
            "it is probably another model's tokenizer"
        )
    return ids


def cut(ids: list[int], *, samples: int, length: int, report: bool, prefix: list[int]) -> Samples:
    """Up to `samples` pieces of `length` ids, and for a report some more that are held out.

    They are spread evenly over the text. Each begins with `prefix`, as all that the model reads does: its first
    position is like no other. ValueError for a text that is too short for one sample, or for one and another that is
    held out.
    """
    assert samples >= 1
    room = length - len(prefix)
    if room < 1:
        raise ValueError(f"samples of {length} tokens have no room for text; give a larger --length")
    pieces = torch.tensor(ids[: len(ids) // room * room], dtype=torch.int64).view(-1, room)
    pieces = torch.cat((torch.tensor(prefix, dtype=torch.int64).expand(pieces.size(0), -1), pieces), dim=1)
    if pieces.size(0) < 1 + report:
        more = " and another for the report" if report else ""
        raise ValueError(
            f"the text has {len(ids):,} tokens, too few for a sample of {length}{more}; give more text, or a smaller "
            "--length"
        )
    held = min(max(1, samples // REPORTED), pieces.size(0) - 1) if report else 0
    taken = pieces[_spread(pieces.size(0), min(samples + held, pieces.size(0)))]
    out = _spread(taken.size(0), held)
    chosen = torch.ones(taken.size(0), dtype=torch.bool)
    chosen[out] = False
    return Samples(ids=taken[chosen], held=taken[out])


def _spread(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` indices, evenly."""
    return [index * count // wanted for index in range(wanted)]
