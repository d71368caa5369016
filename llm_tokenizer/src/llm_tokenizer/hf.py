"""tokenizer.json (and what is built in its form) through the `tokenizers` library."""

import json
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from llm_tokenizer.backend import AddedToken, DecodeRule
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import read_bytes


class HfBackend:
    """A `tokenizers.Tokenizer` with truncation and padding off: ids of the whole text, nothing more."""

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, source: Path, added: Iterable[AddedToken], names: Mapping[str, str]
    ) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        added = list(added)
        add_tokens(tokenizer, added, source)
        self._named = [*names.values(), *(token.content for token in added if token.special)]
        named_ids = mark_special(tokenizer, self._named)
        self._plain: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()
        self.names = names
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._added = tokenizer.get_added_tokens_decoder()
        self.special_ids = named_ids.union(i for i, token in self._added.items() if token.special)
        self.prefix, self.suffix = _around(tokenizer)
        self.rule = decode_rule(tokenizer)

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Ids of the text, without what the file's post-processor adds."""
        tokenizer = self._tokenizer if parse_special else self._without_special()
        return tokenizer.encode(text, add_special_tokens=False).ids

    def _without_special(self) -> tokenizers.Tokenizer:
        """A copy that reads special tokens as plain text: a switch on the shared one would show in other threads."""
        with self._lock:
            if self._plain is None:
                plain = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
                mark_special(plain, self._named)
                plain.encode_special_tokens = True
                self._plain = plain
        return self._plain

    def id_to_token(self, token_id: int) -> str | None:
        """The token as the file spells it."""
        return self._tokenizer.id_to_token(token_id)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the file spells it."""
        return self._tokenizer.token_to_id(token)


def load_tokenizer_json(path: Path, added: Iterable[AddedToken], names: Mapping[str, str]) -> HfBackend:
    """The backend of a tokenizer.json. Raises TokenizerError."""
    data = read_bytes(path)
    return HfBackend(guarded(lambda: tokenizers.Tokenizer.from_buffer(data), path), path, added, names)


def guarded(build: Any, path: Path) -> Any:
    """build(), with what the library raises for a malformed file as TokenizerError."""
    try:
        return build()
    except Exception as error:
        raise TokenizerError(f"{path}: the tokenizers library can't read the file ({str(error)[:200]}).") from error
    except BaseException as error:
        # A panic of the library's Rust code derives from BaseException and is in no importable module.
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{path}: the tokenizers library fails on the file ({str(error)[:200]}).") from error


def add_tokens(tokenizer: tokenizers.Tokenizer, added: Iterable[AddedToken], source: Path) -> None:
    """Adds the tokens that the folder's other files name, each at the id that they give. Raises TokenizerError."""
    known = tokenizer.get_added_tokens_decoder()
    for token in sorted(added, key=lambda token: token.id):
        if token.id in known and known[token.id].content == token.content:
            continue
        entry = tokenizers.AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([entry])
        if tokenizer.token_to_id(token.content) != token.id:
            found = tokenizer.token_to_id(token.content)
            raise TokenizerError(
                f"{source}: added tokens follow the vocabulary without gaps, "
                f"but {token.content!r} is given the id {token.id} and would get {found}."
            )


def mark_special(tokenizer: tokenizers.Tokenizer, contents: Iterable[str]) -> frozenset[int]:
    """Makes tokens that the folder names (eos_token, ...) special, as transformers does; adds no new id. Their ids."""
    ids = {content: i for content in contents if (i := tokenizer.token_to_id(content)) is not None}
    added = tokenizer.get_added_tokens_decoder()
    # An added token keeps its own white space flags: the library takes an entry that it knows as it is.
    tokenizer.add_special_tokens([added.get(i, content) for content, i in ids.items()])
    return frozenset(ids.values())


def _around(tokenizer: tokenizers.Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the post-processor puts before and after every text."""
    encoding = tokenizer.encode("a", add_special_tokens=True)
    ids, mask = encoding.ids, encoding.special_tokens_mask
    inner = [i for i, flag in enumerate(mask) if not flag]
    start, end = (inner[0], inner[-1] + 1) if inner else (len(ids), len(ids))
    return tuple(ids[:start]), tuple(ids[end:])


def decode_rule(tokenizer: tokenizers.Tokenizer) -> DecodeRule:
    """The file's decoder as a rule that works id by id; see `DecodeRule.whole` for the few that can't."""
    decoder = tokenizer.decoder
    if decoder is None:
        return DecodeRule(
            piece=lambda i: None if (token := tokenizer.id_to_token(i)) is None else " " + token,
            first=tokenizer.id_to_token,
        )
    steps = _flat(json.loads(decoder.__getstate__()))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return DecodeRule(piece=_cached(tokenizer, byte_level_bytes))
    if kinds == ["Metaspace"]:
        return _metaspace(tokenizer, steps[0])
    return _byte_fallback(tokenizer, steps) or _whole(tokenizer)


def _flat(step: dict[str, Any]) -> list[dict[str, Any]]:
    return [inner for part in step["decoders"] for inner in _flat(part)] if step["type"] == "Sequence" else [step]


def _cached(tokenizer: tokenizers.Tokenizer, convert: Any) -> Any:
    @lru_cache(maxsize=65536)
    def piece(token_id: int) -> bytes | str | None:
        token = tokenizer.id_to_token(token_id)
        return None if token is None else convert(token)

    return piece


def _whole(tokenizer: tokenizers.Tokenizer) -> DecodeRule:
    return DecodeRule(
        piece=tokenizer.id_to_token, whole=lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)
    )


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte (Radford et al. 2019): character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = byte_level_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for; an added token in plain text is itself."""
    if all(char in _BYTES for char in token):
        return bytes(_BYTES[char] for char in token)
    return token.encode()


def byte_of(token: str) -> int | None:
    """The byte of a byte-fallback token such as <0x0A>."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


def _metaspace(tokenizer: tokenizers.Tokenizer, step: dict[str, Any]) -> DecodeRule:
    mark = step["replacement"]
    lead = " " if step.get("prepend_scheme", "always") == "never" else ""
    return DecodeRule(
        piece=_cached(tokenizer, lambda token: token.replace(mark, " ")),
        first=_cached(tokenizer, lambda token: token.replace(mark, lead)),
    )


def _byte_fallback(tokenizer: tokenizers.Tokenizer, steps: list[dict[str, Any]]) -> DecodeRule | None:
    """Replace..., ByteFallback, Fuse and one leading space off: Llama's form; None for any other."""
    replaces: list[tuple[str, str]] = []
    rest = list(steps)
    while rest and rest[0]["type"] == "Replace" and "String" in rest[0]["pattern"]:
        step = rest.pop(0)
        replaces.append((step["pattern"]["String"], step["content"]))
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    tail = [step if step["type"] == "Strip" else step["type"] for step in rest]
    if tail not in (["ByteFallback", "Fuse"], ["ByteFallback", "Fuse", strip], ["ByteFallback"], ["Fuse"], []):
        return None

    def convert(token: str) -> bytes | str:
        for old, new in replaces:
            token = token.replace(old, new)
        byte = byte_of(token) if "ByteFallback" in tail else None
        return token if byte is None else bytes([byte])

    return DecodeRule(piece=_cached(tokenizer, convert), strip="one" if strip in tail else "no", bytewise=True)
