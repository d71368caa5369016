"""Names of tensors: Hugging Face's and ours, by the one table that stands beside each model.

A table maps patterns, in which {i} stands for a layer's number and {e} for an expert's, e.g.
"model.layers.{i}.mlp.up_proj.weight" -> "mid.{i}.mlp.up.weight". The right side is a sectioned name: it begins with
begin, mid or end, as the files of llm_sepweight do. Where several of Hugging Face's names become one of ours, the first
is what we write. A right side of "" drops the tensor, and the left side may then end in * for anything, also after
{beyond}: the number of a layer that the model doesn't have, such as those that predict a second token.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from llm_sepweight import WeightsError

Names = Mapping[str, str]

_NUMBER = re.compile(r"(?<=\.)(0|[1-9][0-9]{0,4})(?=\.)")
_COMPUTED = ("rotary_emb.inv_freq", "rope.freqs")  # buffers that follow from config.json


def decider(
    names: Names,
    *,
    source: str | Path = "the checkpoint",
    num_layers: int | None = None,
    parts: Collection[str] = (),
) -> Callable[[str], list[str] | None]:
    """For llm_sepweight.open: a tensor's name in the file -> its section and key; None for one to drop.

    `parts` are what quantized layers have in the place of "weight", such as qweight. The decider raises WeightsError,
    which names `source`, for a name that the table doesn't know.
    """

    def decide(key: str) -> list[str] | None:
        if key.endswith(_COMPUTED) or (num_layers is not None and _is_beyond(names, key, num_layers)):
            return None
        try:
            sectioned = from_hf_name(names, key, parts=parts)
        except ValueError as error:
            raise WeightsError(f"{source}: {error}") from None
        if not sectioned:
            return None
        limit = 2 if sectioned.startswith("mid.") else 1
        return sectioned.split(".", limit)

    return decide


def from_hf_name(names: Names, key: str, *, parts: Collection[str] = ()) -> str:
    """Our sectioned name of a tensor that Hugging Face calls `key`, or "" for one that is dropped.

    A name of the table's that ends in "weight" may have one of `parts` there, in both languages. Raises ValueError if
    the table doesn't have it.
    """
    part = next((part for part in parts if key.endswith(f".{part}")), None)
    if part is not None and _pattern(key) not in names:
        whole = from_hf_name(names, key.removesuffix(part) + "weight")
        if whole and not whole.endswith(".weight"):
            raise ValueError(f"unknown tensor {key[:200]!r}: this architecture has no layer of that name")
        return whole and whole.removesuffix("weight") + part
    if any(not ours and theirs.endswith("*") and key.startswith(theirs[:-1]) for theirs, ours in names.items()):
        return ""
    return _translate(names, key, "this architecture has no tensor of that name")


def is_computed(names: Names, key: str) -> bool:
    """Whether Hugging Face's name is that of a buffer which follows from config.json, such as a causal mask.

    The decider drops it as it drops a part that the model lacks, but nothing is lost with it.
    """
    # A table drops buffers by their whole names, and parts of a model by what their names begin with.
    return key.endswith(_COMPUTED) or _pattern(key) in {theirs for theirs, ours in names.items() if not ours}


def to_hf_name(names: Names, sectioned: str) -> str:
    """Hugging Face's name of our tensor; ValueError if the table doesn't have it."""
    reverse: dict[str, str] = {}
    for theirs, ours in names.items():
        reverse.setdefault(ours, theirs)
    return _translate(reverse, sectioned, "the table of names doesn't have it")


def spellings(names: Names, key: str) -> list[str]:
    """All names that Hugging Face has for the tensor which it calls `key`, the one that we write first."""
    ours = names[_pattern(key)]
    return [_translate({ours: theirs}, from_hf_name(names, key), "") for theirs in names if names[theirs] == ours]


def _is_beyond(names: Names, key: str, num_layers: int) -> bool:
    """Whether the table drops the layers from num_layers on, and the tensor is of one of them."""
    prefixes = (theirs.removesuffix("{beyond}.*") for theirs, ours in names.items() if theirs.endswith("{beyond}.*"))
    numbers = (key.removeprefix(prefix).partition(".")[0] for prefix in prefixes if key.startswith(prefix))
    return any(number.isdecimal() and int(number[:9]) >= num_layers for number in numbers)


def _translate(table: Names, name: str, otherwise: str) -> str:
    numbers, pattern = _NUMBER.findall(name), _pattern(name)
    if len(numbers) > 2 or pattern not in table:
        raise ValueError(f"unknown tensor {name[:200]!r}: {otherwise}")
    found = table[pattern]
    for placeholder, number in zip(("{i}", "{e}"), numbers, strict=False):
        found = found.replace(placeholder, number)
    return found


def _pattern(name: str) -> str:
    """The name with the placeholders of a table in the place of its first two numbers."""
    for placeholder in ("{i}", "{e}"):
        name = _NUMBER.sub(placeholder, name, count=1)
    return name
