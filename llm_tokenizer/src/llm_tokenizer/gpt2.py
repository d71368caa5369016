"""vocab.json + merges.txt: byte-level BPE (Radford et al. 2019), built in the form of the `tokenizers` library."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llm_tokenizer.backend import AddedToken
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import MAX_TOKENIZER_BYTES, read_json, read_text
from llm_tokenizer.hf import HfBackend, guarded


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a class of byte-level tokenizers cuts text before merging; pattern None is GPT-2's own."""

    pattern: str | None = None
    nfc: bool = False


QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The two files hold no cutting rule. tokenizer_class in tokenizer_config.json states it; GPT-2's is the format's own.
SPLITS = {
    "GPT2Tokenizer": Split(),
    "CodeGenTokenizer": Split(),
    "RobertaTokenizer": Split(),
    "BartTokenizer": Split(),
    "Qwen2Tokenizer": Split(pattern=QWEN2_PATTERN, nfc=True),
}


def load_gpt2(folder: Path, config: dict[str, Any], added: Iterable[AddedToken], names: Mapping[str, str]) -> HfBackend:
    """The backend of a folder with vocab.json and merges.txt. Raises TokenizerError."""
    path = folder / "vocab.json"
    name = config.get("tokenizer_class") or "GPT2Tokenizer"
    split = SPLITS.get(str(name).removesuffix("Fast"))
    if split is None:
        raise TokenizerError(
            f"{folder}: how {name} cuts text is in no file here (known: {', '.join(SPLITS)}); "
            "add the tokenizer.json that transformers saves."
        )
    vocab, merges = _vocab(path), _merges(folder / "merges.txt")
    model = guarded(lambda: models.BPE(vocab=vocab, merges=merges), folder / "merges.txt")
    tokenizer = tokenizers.Tokenizer(model)
    space = config.get("add_prefix_space") is True
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = _pre_tokenizer(split, space)
    if split.nfc:
        tokenizer.normalizer = normalizers.NFC()
    return HfBackend(tokenizer, path, added, names)


def _pre_tokenizer(split: Split, add_prefix_space: bool) -> pre_tokenizers.PreTokenizer:
    if split.pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    cut = pre_tokenizers.Split(tokenizers.Regex(split.pattern), behavior="isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)])


def _vocab(path: Path) -> dict[str, int]:
    vocab = read_json(path, MAX_TOKENIZER_BYTES)
    ids = set(vocab.values()) if all(type(i) is int for i in vocab.values()) else set()
    if len(ids) != len(vocab) or not vocab or min(ids) < 0 or max(ids) >= 2**31:
        raise TokenizerError(f"{path}: each token has its own id, an integer from 0; at least one here has not.")
    return vocab


def _merges(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(read_text(path, MAX_TOKENIZER_BYTES).split("\n")):
        if not line or (number == 0 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise TokenizerError(f"{path}: line {number + 1} must be two tokens with a space between.")
        pairs.append((pair[0], pair[1]))
    return pairs
