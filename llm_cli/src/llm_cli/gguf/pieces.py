"""Tokenizers of pieces of text, as sentencepiece makes them: from its own file, or from a tokenizer.json of that kind.

llama.cpp joins the pieces of a BPE by a score of each, and finds those of a Unigram model by theirs.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from llm_cli.gguf.rules import NORMALISES, Kind, Rules, flat
from llm_tokenizer.hf import byte_of

_UNIGRAM, _BPE = 1, 2  # sentencepiece's numbers; the former where its file says nothing
_MODELS = {_UNIGRAM: "t5", _BPE: "llama"}
_LONGEST = 4096  # characters of a token: many times what any known one has, and few enough to be cut everywhere
_SQUEEZES = "this tokenizer makes one space of several, llama.cpp does not"


def sentencepiece_rules(data: bytes) -> tuple[list[str], Rules]:
    """Pieces and rules of a sentencepiece model (sentencepiece_model.proto). ValueError for what llama.cpp hasn't."""
    model = _message(data)
    found = [_message(each) for each in model.get(1, [])]
    kinds = {i: Kind(_last(piece, 3, 1)) for i, piece in enumerate(found)}
    trainer, normalizer = _message(_last(model, 2, b"")), _message(_last(model, 3, b""))
    algorithm = _last(trainer, 3, _UNIGRAM)
    if algorithm not in _MODELS:
        raise ValueError(f"llama.cpp has sentencepiece's Unigram and BPE alone, this model is of its kind {algorithm}")
    _require_bytes(_MODELS[algorithm], Kind.BYTE in kinds.values())
    rules = Rules(
        model=_MODELS[algorithm],
        scores={i: struct.unpack("<f", _last(piece, 2, bytes(4)))[0] for i, piece in enumerate(found)},
        kinds={i: kind for i, kind in kinds.items() if kind != Kind.NORMAL},
    )
    squeezes, charsmap = bool(_last(normalizer, 4, 1)), bytes(_last(normalizer, 2, b""))
    texts = [_last(piece, 1, b"").decode() for piece in found]
    return texts, _normalising(rules, squeezes, charsmap)


def json_rules(data: Mapping[str, Any]) -> Rules:
    """The rules of a tokenizer.json whose tokens are pieces of text. ValueError for what llama.cpp hasn't."""
    model = data["model"]
    if model.get("type") == "Unigram":
        return _unigram(data)
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"llama.cpp has BPE and Unigram tokenizers, this one is a {model['type']}")
    _require_bytes("llama", model.get("byte_fallback") is True)
    vocabulary: dict[str, int] = model["vocab"]
    kinds = {i: Kind.BYTE for token, i in vocabulary.items() if byte_of(token) is not None}
    unknown = vocabulary.get(model.get("unk_token") or "")
    added = {each["content"] for each in data.get("added_tokens", ())}
    return Rules(
        model="llama",
        scores=_scores({token: i for token, i in vocabulary.items() if token not in added and i not in kinds}, model),
        kinds=kinds | ({} if unknown is None else {unknown: Kind.UNKNOWN}),
    )


def _scores(vocabulary: Mapping[str, int], model: Mapping[str, Any]) -> dict[int, float]:
    """A score for each token that gives the merges' order; ValueError where the result alone doesn't decide it.

    llama.cpp joins neighbours whenever their text is a token, the best token first.
    """
    longest = max(map(len, vocabulary), default=0)
    if longest > _LONGEST:
        raise ValueError(f"a token of {longest:,} characters is too long; the limit is {_LONGEST:,}")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    joined = [left + right for left, right in merges]
    ranks = {token: rank for rank, token in reversed([*enumerate(joined)])}
    known = set(merges)
    apart = len(ranks) != 1 + sum(one != other for one, other in pairwise(joined))
    other = next((token for token in vocabulary if any(pair not in known for pair in _splits(token, vocabulary))), None)
    if merges and (apart or other is not None):
        raise ValueError(
            "llama.cpp joins pieces by their result alone, and the merges of this tokenizer.json go by more than that; "
            "put the tokenizer.model beside it from which it was made"
        )
    return {i: -float(ranks.get(token, 0)) for token, i in vocabulary.items()}


def _splits(token: str, vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs of tokens that make up a token."""
    for place in range(1, len(token)):
        if token[:place] in vocabulary and token[place:] in vocabulary:
            yield token[:place], token[place:]


def _require_bytes(model: str, has_bytes: bool) -> None:
    """llama.cpp falls back to bytes for BPE, always, and never for Unigram models."""
    if model == "llama" and not has_bytes:
        raise ValueError("llama.cpp wants a BPE of pieces to have tokens of single bytes, and ends without them")
    if model == "t5" and has_bytes:
        raise ValueError("llama.cpp has no Unigram models that fall back to bytes")


def _unigram(data: Mapping[str, Any]) -> Rules:
    model, steps = data["model"], list(flat(data.get("normalizer"), "normalizers"))
    _require_bytes("t5", model.get("byte_fallback") is True)
    charsmap = next((step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"), "")
    squeezes = any(step["type"] == "Replace" and "{2,}" in str(step.get("pattern")) for step in steps)
    rules = Rules(
        model="t5",
        scores={i: float(score) for i, (_, score) in enumerate(model["vocab"])},
        kinds={} if model.get("unk_id") is None else {model["unk_id"]: Kind.UNKNOWN},
    )
    return _normalising(rules, squeezes, base64.b64decode(charsmap))


def _normalising(rules: Rules, squeezes: bool, charsmap: bytes) -> Rules:
    """With what is done to text before: llama.cpp does it for Unigram models alone."""
    if rules.model == "t5":
        settings: dict[str, bool | bytes] = {"remove_extra_whitespaces": squeezes}
        return replace(rules, settings=settings | ({"precompiled_charsmap": charsmap} if charsmap else {}))
    notes = [*([_SQUEEZES] if squeezes else ()), *([NORMALISES.format("by its own table")] if charsmap else ())]
    return replace(rules, notes=tuple(notes))


def _message(data: bytes) -> dict[int, list[Any]]:
    """The fields of a serialised protobuf message by their numbers: integers, or bytes of what is inside."""
    fields: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
        else:
            size, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = data[place : place + size], place + size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 0x80:
            return value, place


def _last(message: Mapping[int, list[Any]], number: int, default: Any) -> Any:
    """A field's value, the last of several as protobuf has it."""
    return message.get(number, [default])[-1]
