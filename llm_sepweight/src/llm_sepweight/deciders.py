"""Deciders say where a tensor of somebody else's checkpoint belongs: file key -> section and new key."""

import re
from collections.abc import Callable

from .errors import WeightsError
from .layout import join_name, split_name

Decider = Callable[[str], list[str] | None]

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.([0-9]{1,5})\.(.+)")
_WRAPPERS = ("model.", "transformer.", "gpt_neox.", "backbone.", "decoder.")
_LENGTHS = {"begin": 2, "start": 2, "mid": 3, "end": 2}
_HEADS = ("embed_out",)  # GPT-NeoX calls its output head so


def default_decider(key: str) -> list[str]:
    """Section and key by the structure of the name alone.

    `….layers.N.…` (also h, blocks, block, layer) is layer N, embeddings are the beginning, the rest is the end.
    Keys lose the layer's prefix or the wrapper's ("model.", "transformer.", …) and stay as they are otherwise.
    """
    layer = _LAYER.search(key)
    if layer:
        return ["mid", layer[1], layer[2]]
    while key.startswith(_WRAPPERS):
        key = key.partition(".")[2]
    is_embedding = any(("embed" in word and word not in _HEADS) or word in ("wte", "wpe") for word in key.split("."))
    return ["begin" if is_embedding else "end", key]


def place(key: str, decider: Decider) -> str | None:
    """The sectioned name that the decider gives to `key`; None drops the tensor. WeightsError if malformed."""
    answer = decider(key)
    if answer is None:
        return None
    are_words = isinstance(answer, list | tuple) and all(isinstance(word, str) for word in answer)
    words = list(answer) if are_words else []
    if len(words) != _LENGTHS.get(words[0] if words else "") or "." in words[-2]:
        raise WeightsError(
            f"the decider answered {answer!r} to {key!r}; it must be ['begin', KEY], ['mid', LAYER, KEY], ['end', KEY] "
            "(all strings) or None"
        )
    section, name = split_name(".".join(words))
    return join_name(section, name)
