"""Byte-level BPE as llama.cpp has it: the merges, and its name for the way in which text is cut before they apply.

llama.cpp keeps the cutting rules in its code, under names of models that have them; what counts is the rule. So a
tokenizer's own regular expressions are looked up here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from llm_cli.gguf.rules import NORMALISES, Rules, flat
from llm_tokenizer.gpt2 import Split

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _ENDS
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"{_UPPER}*{_LOWER}+%s|{_UPPER}+{_LOWER}*%s|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|" + _ENDS
_DIGIT, _DIGITS, _THREE = r"\p{N}", r"\p{N}+", r"\p{N}{1,3}"
_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]".replace('\\"', '"')
_DEEPSEEK_3 = _PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _ENDS
_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄ"
    "ῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_HAN, _IDEOGRAPHS = "[一-龥぀-ゟ゠-ヿ]+", "[一-龥ࠀ-一가-퟿]+"

# The rules one after another, and whether a word that is a token is taken without merging -> llama.cpp's name
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((_DIGIT, _GPT2), False): "smollm",
    ((_WORDS % _DIGIT,), False): "qwen2",
    ((_WORDS % _THREE,), True): "llama-bpe",
    ((_WORDS % _THREE,), False): "dbrx",
    ((_CASED % ("", "", _DIGIT),), True): "tekken",
    ((_CASED % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", _THREE),), False): "gpt-4o",
    (("punctuation", _GPT2, _DIGITS, "[0-9][0-9][0-9]"), False): "falcon",
    ((_THREE, _HAN, _DEEPSEEK_3), False): "deepseek-v3",
    (
        (r"[\r\n]", rf"\s?[{_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _IDEOGRAPHS, _DIGIT),
        False,
    ): "deepseek-llm",
    ((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, _DIGIT), False): "deepseek-coder",
}


_ISOLATING = (("Isolated", False), ("Removed", True))


def is_byte_level(data: Mapping[str, Any]) -> bool:
    """Whether the tokenizer of a tokenizer.json works on bytes."""
    return any(step.get("type") == "ByteLevel" for step in flat(data.get("pre_tokenizer"), "pretokenizers"))


def byte_level_rules(data: Mapping[str, Any], pre: str | None) -> Rules:
    """The rules of a byte-level tokenizer.json. ValueError for what llama.cpp hasn't and `pre` doesn't tell."""
    model = data["model"]
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"llama.cpp has no byte-level tokenizers with {key} = {model[key]!r}")
    cuts = tuple(filter(None, map(_cut, flat(data.get("pre_tokenizer"), "pretokenizers"))))
    forms = [step["type"] for step in flat(data.get("normalizer"), "normalizers")]
    found = _NAMES.get((cuts, model.get("ignore_merges") is True))
    return _rules(map(_pair, model["merges"]), pre or found, " then ".join(cuts), ", ".join(forms))


def merges_file_rules(text: str, split: Split, pre: str | None) -> Rules:
    """The rules of vocab.json with the text of merges.txt, whose words are cut by `split`."""
    lines = [line for line in text.split("\n") if line and not line.startswith("#version")]
    cut = _spelt(split.pattern or _GPT2)
    found = pre or _NAMES.get(((cut,), False))
    return _rules((tuple(line.split(" ")) for line in lines), found, cut, "NFC" if split.nfc else "")


def _rules(merges: Iterable[tuple[str, ...]], pre: str | None, cuts: str, forms: str) -> Rules:
    if pre is None:
        raise ValueError(
            "there is no known name of llama.cpp's for the way in which this tokenizer cuts text "
            f"({cuts[:300] or 'not at all'}); give that of one that cuts alike with --pre"
        )
    notes = (NORMALISES.format(f"({forms})"),) if forms else ()
    return Rules(model="gpt2", pre=pre, merges=tuple(" ".join(pair) for pair in merges), notes=notes)


def _pair(merge: str | list[str]) -> tuple[str, ...]:
    return tuple(merge.split(" ") if isinstance(merge, str) else merge)


def _cut(step: Mapping[str, Any]) -> str:
    """A step as a regular expression of the words that it cuts out, "" where it cuts nothing."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return _GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits":
        return _DIGIT if step.get("individual_digits") else _DIGITS
    if kind == "Punctuation" and step.get("behavior") == "Contiguous":
        return "punctuation"
    # what is left over between matches is a word of its own either way: the expressions match everything
    if kind == "Split" and (step.get("behavior"), step.get("invert", False)) in (
        ("Isolated", False),
        ("Removed", True),
    ):
        pattern = step.get("pattern")
        if isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
            return _spelt(pattern["Regex"])
    return f"a step {kind!r} that llama.cpp hasn't"


def _spelt(pattern: str) -> str:
    """One spelling for line ends, which files have as they are or escaped, and for letters that have two."""
    return unicodedata.normalize("NFC", pattern).replace("\r", r"\r").replace("\n", r"\n")
