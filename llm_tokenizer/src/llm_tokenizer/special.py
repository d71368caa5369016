"""Special tokens, BOS and EOS rules and end-of-turn ids, from the folder's own files.

- A token's name (bos_token, eos_token, ...): tokenizer_config.json (null counts: there is none), else
  special_tokens_map.json, else the default of the tokenizer_class, else what the tokenizer file itself says.
- BOS is added if add_bos_token says so, else as the tokenizer file has it: the post-processor of tokenizer.json, or the
  BOS of a sentencepiece or llama2.c file. add_eos_token likewise.
- Turns end at: eos_token, each eos_token_id of generation_config.json, and that of config.json where it is a special
  token (config.json often holds no more than its class's default, which may be an ordinary word here).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_tokenizer.backend import MAX_IDS, AddedToken, Backend
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import read_json_if_any

KNOWN = (*(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")), "additional_special_tokens")
_END = "<|endoftext|>"
# What a class stands for when tokenizer_config.json names it and leaves the token out, if the vocabulary has it.
CLASS_NAMES: dict[str, dict[str, str]] = {
    "GPT2Tokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    "GPTNeoXTokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    "CodeGenTokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    "Qwen2Tokenizer": {"eos_token": _END, "pad_token": _END, "unk_token": _END},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
}


@dataclass(frozen=True, kw_only=True)
class Statements:
    """What the folder says beside the tokenizer file; all empty for a single file."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    special_map: dict[str, Any] = field(default_factory=dict)
    added: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def names(self, defaults: Mapping[str, str]) -> dict[str, str]:
        """{"bos_token": "<s>", ...} with `defaults` for what no file states. Raises TokenizerError."""
        tokenizer_class = str(self.config.get("tokenizer_class") or "").removesuffix("Fast")
        extra = self.config.get("extra_special_tokens")
        more = extra if isinstance(extra, dict) else {}
        stated = {**defaults, **CLASS_NAMES.get(tokenizer_class, {}), **more, **self.special_map, **self.config}
        named = {key: self._content(key, value) for key, value in stated.items() if _is_name(key) and value is not None}
        return {key: value for key, value in named.items() if value}

    def _content(self, key: str, value: object) -> str:
        """The string of a token that may be spelled out as an object; "" for a key of other meaning that ends alike."""
        if isinstance(value, dict):
            value = value.get("content")
        if not isinstance(value, str) and key not in KNOWN:
            return ""
        if not isinstance(value, str):
            raise TokenizerError(
                f"{self.folder / 'tokenizer_config.json'}: {key} must be a string, it is {value!r:.80}."
            )
        return value

    def added_tokens(self, names: Mapping[str, str]) -> list[AddedToken]:
        """Tokens of added_tokens_decoder (tokenizer_config.json) and added_tokens.json. Raises TokenizerError."""
        extra = self.special_map.get("additional_special_tokens") or self.config.get("additional_special_tokens") or []
        special = {*names.values(), *(self._content("additional_special_tokens", token) for token in extra)}
        found: dict[int, AddedToken] = {}
        for content, token_id in self.added.items():
            found[_id(token_id, self.folder / "added_tokens.json")] = AddedToken(
                content=content, id=token_id, special=content in special
            )
        source = self.folder / "tokenizer_config.json"
        for key, entry in _object(self.config, "added_tokens_decoder", source).items():
            token_id = _id(int(key) if key.isdecimal() else key, source)
            found[token_id] = self._added_token(token_id, entry, source)
        return list(found.values())

    def _added_token(self, token_id: int, entry: object, source: Path) -> AddedToken:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise TokenizerError(
                f"{source}: added_tokens_decoder[{token_id}] must be an object with a string `content`."
            )
        flags = {name: entry.get(name) is True for name in ("special", "lstrip", "rstrip", "single_word", "normalized")}
        return AddedToken(content=entry["content"], id=token_id, **flags)


def read_statements(folder: Path) -> Statements:
    """The folder's JSON files that speak of the tokenizer. Raises TokenizerError for a malformed one."""
    return Statements(
        folder=folder,
        config=read_json_if_any(folder / "tokenizer_config.json"),
        special_map=read_json_if_any(folder / "special_tokens_map.json"),
        added=read_json_if_any(folder / "added_tokens.json"),
        generation=read_json_if_any(folder / "generation_config.json"),
        model=read_json_if_any(folder / "config.json"),
    )


@dataclass(frozen=True, kw_only=True)
class Special:
    """The folder's rules as ids; prefix and suffix are what its own rule puts around a text."""

    names: dict[str, str]
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    end_ids: tuple[int, ...]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    hidden: frozenset[int]


def resolve(statements: Statements, backend: Backend) -> Special:
    """Names and rules turned into ids of this vocabulary. Raises TokenizerError."""
    names = statements.names(backend.names)
    ids = {key: backend.token_to_id(token) for key, token in names.items()}
    bos, eos = ids.get("bos_token"), ids.get("eos_token")
    generation_ends = _ids(statements.generation, statements.folder / "generation_config.json")
    model_ends = _ids(statements.model, statements.folder / "config.json")
    ends = [*([] if eos is None else [eos]), *generation_ends, *(i for i in model_ends if i in backend.special_ids)]
    return Special(
        names=names,
        bos_id=bos,
        eos_id=ends[0] if ends else None,
        pad_id=ids.get("pad_token"),
        end_ids=tuple(dict.fromkeys(ends)),
        prefix=_rule(statements.config.get("add_bos_token"), bos, backend.prefix),
        suffix=_rule(statements.config.get("add_eos_token"), eos, backend.suffix),
        hidden=backend.special_ids,
    )


def _rule(stated: object, token_id: int | None, own: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(stated, bool):
        return own
    return () if not stated or token_id is None else (token_id,)


def _is_name(key: str) -> bool:
    return key.endswith("_token") and not key.startswith("add_")


def _ids(config: dict[str, Any], source: Path) -> list[int]:
    inner = config.get("text_config")
    value = config.get("eos_token_id", inner.get("eos_token_id") if isinstance(inner, dict) else None)
    listed: Iterable[object] = value if isinstance(value, list) else [] if value is None else [value]
    return [_id(item, source) for item in listed]


def _id(value: object, source: Path) -> int:
    if type(value) is not int or not 0 <= value < MAX_IDS:
        raise TokenizerError(f"{source}: an id must be an integer from 0, this one is {value!r:.80}.")
    return value


def _object(config: dict[str, Any], key: str, source: Path) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise TokenizerError(f"{source}: {key} must be an object, it is a {type(value).__name__}.")
    return value
