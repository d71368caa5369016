"""A text to measure models on: read from a file, made ids, and cut into windows that the models can take."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_cli.llm import LLM

WINDOW = 2048  # tokens; a longer context is used where it is asked for, because logits of a window are held whole


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text as ids, and how it goes through a model; the names are those of `llm_sampler.perplexity`."""

    ids: list[int]
    prefix: list[int]
    window: int
    stride: int
    batch_size: int
    num_bytes: int | None
    """Bytes of text that the scored ids are; None where no tokenizer tells."""

    @property
    def scored(self) -> int:
        """How many ids are scored: all, but for the first one where nothing stands before it."""
        return len(self.ids) - (0 if self.prefix else 1)

    def options(self) -> dict[str, Any]:
        """The keywords of `llm_sampler.perplexity`."""
        names = ("window", "stride", "prefix", "batch_size", "num_bytes")
        return {name: getattr(self, name) for name in names}


def read_file(path: str) -> str:
    """The text of a file, of stdin for `-`. ValueError for one that is empty or no UTF-8 text."""
    name = "stdin" if path == "-" else f"'{path}'"
    data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    if not data.strip():
        raise ValueError(f"{name} is empty; give a text to measure on")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is no text in UTF-8 (byte {error.start:,} is 0x{data[error.start]:02x}); "
            "give plain text, or convert it to UTF-8 first"
        ) from None
    if "\0" in text:
        raise ValueError(f"{name} is no text, for it holds a NUL character at {text.index(chr(0)):,}; give plain text")
    return text


def check_sizes(
    *, window: int | None = None, stride: int | None = None, max_tokens: int | None = None, batch_size: int = 1
) -> None:
    """Raise ValueError for numbers that no model and no text could make right."""
    sizes = {"window": window, "stride": stride, "max_tokens": max_tokens, "batch_size": batch_size}
    for name, size in sizes.items():
        if size is not None and (isinstance(size, bool) or size < 1):
            raise ValueError(f"{name} must be 1 or more, not {size}")
    if window is not None and stride is not None and stride > window:
        raise ValueError(
            f"stride={stride} is more than window={window}, which would leave tokens out; give at most that"
        )


def prepare(
    llm: LLM,
    text: str | list[int],
    *,
    against: LLM | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    bos: bool | None = None,
    batch_size: int = 1,
) -> Text:
    """The text for `measure`, as `evaluation.perplexity` describes it.

    Needs no weights, so that what is wrong is told before they are read. Raises ValueError.
    """
    check_sizes(window=window, stride=stride, max_tokens=max_tokens, batch_size=batch_size)
    prefix = _prefix(llm, bos)
    ids = _ids(llm, text, prefix)
    if against is not None and against is not llm:
        _check_base(llm, against, text, ids, prefix)
    limit = min(one.context_length for one in (llm, against) if one is not None) - max(0, len(prefix) - 1)
    width = min(limit, WINDOW) if window is None else window
    if width > limit:
        raise ValueError(f"window={window} is more than the context of {limit} tokens; give at most that")
    check_sizes(window=width, stride=stride)
    kept = ids[:max_tokens]
    if len(kept) < (1 if prefix else 2):
        raise ValueError(f"a text of {len(kept)} tokens has none that another one stands before; give a longer text")
    return Text(
        ids=kept,
        prefix=prefix,
        window=width,
        stride=width if stride is None else stride,
        batch_size=batch_size,
        num_bytes=_num_bytes(llm, text, ids, kept, prefix),
    )


def _prefix(llm: LLM, bos: bool | None) -> list[int]:
    """The ids before each window: BOS or nothing, or what the tokenizer puts before a text."""
    if llm.has_tokenizer:
        return llm.tokenizer.encode("", bos=bos)
    if bos:
        raise ValueError("this checkpoint has no tokenizer that names the id of BOS; load with tokenizer_dir=")
    return []


def _ids(llm: LLM, text: str | list[int], prefix: list[int]) -> list[int]:
    """The ids of the text itself. One that begins with the prefix has it once, as windows do."""
    ids = llm.tokenizer.encode(text, bos=False) if isinstance(text, str) else list(text)
    size = llm.config.vocab_size
    wrong = next((i for i in ids if not 0 <= i < size), None)
    if wrong is not None:
        told = "the tokenizer makes an id that" if isinstance(text, str) else "ids hold one that"
        raise ValueError(f"{told} this model doesn't know ({wrong}; it knows 0 to {size - 1}); name its own tokenizer")
    return ids[len(prefix) :] if prefix and ids[: len(prefix)] == prefix else ids


def _check_base(llm: LLM, against: LLM, text: str | list[int], ids: list[int], prefix: list[int]) -> None:
    """Raise ValueError unless the ids of the text mean the same to the model that it is compared with."""
    sizes = llm.config.vocab_size, against.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the model knows {sizes[0]:,} ids and the one to compare with {sizes[1]:,}, and there is no divergence "
            "between distributions over different ids; compare models of one vocabulary"
        )
    if isinstance(text, str) and against.has_tokenizer and _ids(against, text, prefix) != ids:
        raise ValueError(
            "the tokenizer of the model to compare with makes other ids of this text; compare models of one tokenizer"
        )


def _num_bytes(llm: LLM, text: str | list[int], ids: list[int], kept: list[int], prefix: list[int]) -> int | None:
    """Bytes of the scored text: those of the text itself where all of it is scored, else of what the ids decode to."""
    if not llm.has_tokenizer:
        return None
    whole = isinstance(text, str) and len(kept) == len(ids)
    count = len(text.encode()) if whole else _decoded_bytes(llm, kept)  # type: ignore[union-attr]
    unscored = 0 if prefix else _decoded_bytes(llm, kept[:1])
    return max(1, count - unscored)


def _decoded_bytes(llm: LLM, ids: list[int]) -> int:
    return len(llm.tokenizer.decode(ids, skip_special=False).encode())
