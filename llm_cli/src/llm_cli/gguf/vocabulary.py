"""A tokenizer as GGUF has it: its rules, every token with what it is, and the ids that mean something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_cli.gguf.byte_level import byte_level_rules, is_byte_level, merges_file_rules
from llm_cli.gguf.pieces import json_rules, sentencepiece_rules
from llm_cli.gguf.rules import SPACE, Kind, Rules
from llm_tokenizer import Tokenizer
from llm_tokenizer.files import MAX_TOKENIZER_BYTES, read_bytes, read_json, read_text
from llm_tokenizer.gpt2 import SPLITS
from llm_tokenizer.special import read_statements

_NEVER = -10_000.0  # the score of what no pieces may become
_ENDS = ("eos", "eot", "eom")  # GGUF's names for ids that end a turn


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens by id with what each is, and the ids by GGUF's names of them.

    `begins` and `ends` say whether BOS and EOS go around a text, `strips` whether special tokens take the white space
    after them along.
    """

    rules: Rules
    tokens: tuple[str, ...]
    kinds: tuple[Kind, ...]
    ids: Mapping[str, int]
    begins: bool
    ends: bool
    strips: bool

    @property
    def scores(self) -> list[float] | None:
        """One for each token, where the rules go by scores."""
        known = self.rules.scores
        return None if known is None else [known.get(i, _NEVER) for i in range(len(self.tokens))]


def read_vocabulary(
    tokenizer: Tokenizer, config: Mapping[str, Any], *, rows: int, folder: Path | None, pre: str | None = None
) -> Vocabulary:
    """The vocabulary of a tokenizer that was read from `folder`, or else from a file that stands alone.

    Unused tokens fill it up to the `rows` of the embedding. What the tokenizer doesn't say of BOS and EOS the model's
    config.json may. `pre` is llama.cpp's name of how text is cut, where it can't be told. Raises ValueError for a
    tokenizer that llama.cpp can't follow.
    """
    if tokenizer.vocab_size > rows:
        sizes = f"the tokenizer has {tokenizer.vocab_size:,} tokens and the model {rows:,}"
        raise ValueError(f"{sizes}; give the one that it was trained with")
    data = _json(tokenizer)
    rules = _rules(tokenizer, data, folder, pre)
    begin, end = tokenizer.encode("", bos=None), tokenizer.encode("", bos=False, eos=None)
    if len(begin) > 1 or len(end) > 1:
        raise ValueError(f"llama.cpp puts one token at most around a text, this tokenizer {len(begin)} and {len(end)}")
    ids = _ids(tokenizer, config, begin, end)
    swallowing = _added(data, folder)
    special = {i: _is_special(tokenizer, i) for i in (*swallowing, *ids.values()) if i < tokenizer.vocab_size}
    tokens, kinds = _tokens(tokenizer, rules, rows, special)
    unknown = next((i for i, kind in enumerate(kinds) if kind == Kind.UNKNOWN), None)
    return Vocabulary(
        rules=_with_spaces(rules, tokenizer, next((i for i, flag in special.items() if flag), None)),
        tokens=tokens,
        kinds=kinds,
        ids=ids if unknown is None else ids | {"unknown": unknown},
        begins=bool(begin),
        ends=bool(end),
        strips=any(strips and special.get(i, False) for i, strips in swallowing.items()),
    )


def _rules(tokenizer: Tokenizer, data: Mapping[str, Any], folder: Path | None, pre: str | None) -> Rules:
    main = tokenizer.files[0]
    if main.name == "vocab.json":
        named = str(read_statements(main.parent).config.get("tokenizer_class") or "GPT2Tokenizer")
        merges = read_text(main.with_name("merges.txt"), MAX_TOKENIZER_BYTES)
        return merges_file_rules(merges, SPLITS[named.removesuffix("Fast")], pre)
    if data and is_byte_level(data):
        return byte_level_rules(data, pre)
    if pre is not None:
        raise ValueError(f"{main}: this tokenizer isn't byte-level, so --pre {pre} has no meaning for it; leave it out")
    if main.suffix == ".model":
        return sentencepiece_rules(read_bytes(main, MAX_TOKENIZER_BYTES))[1]
    if not data:
        raise ValueError(f"{main}: llama.cpp doesn't know tokenizers of this kind; give the model's tokenizer.model")
    beside = None if folder is None else folder / "tokenizer.model"
    if beside is not None and beside.is_file():
        pieces, rules = sentencepiece_rules(read_bytes(beside, MAX_TOKENIZER_BYTES))
        if all(tokenizer.id_to_token(i) == piece for i, piece in enumerate(pieces)):
            return rules
    return json_rules(data)


def _tokens(
    tokenizer: Tokenizer, rules: Rules, rows: int, added: Mapping[int, bool]
) -> tuple[tuple[str, ...], tuple[Kind, ...]]:
    """Every token and what it is; `added` are those that always are one token -> whether they are special."""
    found: dict[str, Kind] = {}
    for i in range(rows):
        text = (tokenizer.id_to_token(i) if i < tokenizer.vocab_size else None) or ""
        kind = rules.kinds.get(i, Kind.NORMAL)
        if not text:
            text, kind = f"[PAD{i}]", Kind.UNUSED
        elif i in added and kind != Kind.UNKNOWN:
            kind = Kind.CONTROL if added[i] else Kind.USER_DEFINED
        if kind == Kind.USER_DEFINED and rules.scores is not None:
            text = text.replace(SPACE, " ")  # llama.cpp looks for it in the text itself
        if text in found:
            raise ValueError(f"llama.cpp wants each token once, and {text[:80]!r} is one a second time at {i}")
        found[text] = kind
    return tuple(found), tuple(found.values())


def _ids(tokenizer: Tokenizer, config: Mapping[str, Any], begin: list[int], end: list[int]) -> dict[str, int]:
    """The ids that GGUF has names for. llama.cpp would take some word for BOS or EOS where there is none."""
    ends = list(dict.fromkeys([*end, *tokenizer.end_ids])) or _stated(config, "eos_token_id", tokenizer.vocab_size)
    if not ends:
        raise ValueError(
            "neither the tokenizer nor config.json names a token that ends a text, and llama.cpp would take some word "
            "for it; name eos_token in tokenizer_config.json"
        )
    own = begin or ([] if tokenizer.bos_id is None else [tokenizer.bos_id])
    bos = (own or _stated(config, "bos_token_id", tokenizer.vocab_size) or ends)[0]
    padding = {} if tokenizer.pad_id is None else {"padding": tokenizer.pad_id}
    return {"bos": bos, **dict(zip(_ENDS, ends, strict=False)), **padding}


def _stated(config: Mapping[str, Any], key: str, size: int) -> list[int]:
    value = config.get(key)
    listed = value if isinstance(value, list) else [value]
    return [i for i in listed if type(i) is int and 0 <= i < size]


def _is_special(tokenizer: Tokenizer, i: int) -> bool:
    return tokenizer.decode([i]) == "" != tokenizer.decode([i], skip_special=False)


def _with_spaces(rules: Rules, tokenizer: Tokenizer, special: int | None) -> Rules:
    """The rules with the space that goes before a text, and a note where llama.cpp puts more than the tokenizer."""
    if rules.scores is None:
        return rules

    def leads(ids: list[int]) -> bool:
        return bool(ids) and (tokenizer.id_to_token(ids[0]) or "").startswith(SPACE)

    prefix, name = (
        leads(tokenizer.encode("a", bos=False)),
        tokenizer.id_to_token(special) if special is not None else "",
    )
    notes = rules.notes
    if prefix and name and not leads(tokenizer.encode(f"{name}a", bos=False)[1:]):
        notes += ("llama.cpp puts a space before text that follows a special token, this tokenizer does not",)
    return replace(rules, settings={**rules.settings, "add_space_prefix": prefix}, notes=notes)


def _json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What the tokenizer.json says, {} where another file is the tokenizer."""
    main = tokenizer.files[0]
    return read_json(main, MAX_TOKENIZER_BYTES) if main.suffix == ".json" and main.name != "vocab.json" else {}


def _added(data: Mapping[str, Any], folder: Path | None) -> dict[int, bool]:
    """The ids of tokens that are found in the text itself -> whether they take the white space after them along."""
    stated = {} if folder is None else {each.id: each.rstrip for each in read_statements(folder).added_tokens({})}
    return stated | {each["id"]: each.get("rstrip") is True for each in data.get("added_tokens", ())}
