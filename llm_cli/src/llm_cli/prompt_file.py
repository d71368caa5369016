"""A prompt that was read, in a file: its ids, its keys and values, and which model made them."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import torch

from llm_blocks.cache_file import CacheFile, write_cache
from llm_cli.fingerprint import fingerprint, surroundings
from llm_cli.reading import PromptCache
from llm_sepweight import WeightsError

FORMAT = "llm_cli.prompt_cache"
MARK, MODEL, MADE_BY, TEXT_LENGTH = "format", "model", "made_by", "text_length"


def save(cache: PromptCache, path: str | Path, *, overwrite: bool = False) -> None:
    """Write the prompt that `cache` read last; as `PromptCache.save`."""
    ids, kv, end = cache.readable()
    extra = {"ids": torch.tensor(ids, dtype=torch.int64)}
    if end is not None:
        extra["end"] = end.flatten()
    metadata = {
        MARK: FORMAT,
        MODEL: fingerprint(cache.model),
        MADE_BY: json.dumps(surroundings(cache.model)),
        TEXT_LENGTH: str(cache.text_length),
    }
    write_cache(path, kv, lengths=[len(ids)], extra=extra, metadata=metadata, overwrite=overwrite)


def load(path: str | Path, model: Any) -> PromptCache:
    """The exact cache that `save` wrote; as `PromptCache.load`."""
    with CacheFile(path) as file:
        require_prompt(file)
        if file.metadata.get(MODEL) != fingerprint(model):
            raise WeightsError(
                f"{path}: the prompt in it was read by another model, or by this one in another precision or "
                "quantization; give the file another name, or remove it"
            )
        limit, vocab_size = model.config.max_positions, model.config.vocab_size
        kv = file.cache(model, limit=limit)
        if len(kv.lengths) != 1:
            raise WeightsError(f"{path}: holds {len(kv.lengths)} rows, and a prompt is one")
        length = kv.lengths[0]
        ids = file.extra("ids", shape=(length,), dtypes=(torch.int64,))
        if ids is None or not length or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
            raise WeightsError(f"{path}: lacks the ids of its prompt, or has some that the model doesn't know")
        end = file.extra("end", shape=(vocab_size,), dtypes=(torch.float32, torch.bfloat16, torch.float16))
        text_length = _text_length(file, length, limit)
        if end is not None and length != text_length:
            raise WeightsError(f"{path}: has logits of another prompt than its ids are")
        cache = PromptCache(exact=True)
        end = None if end is None else end.to(next(model.parameters()).device).view(1, 1, -1)
        cache.restore(model, ids.tolist(), kv, text_length=text_length, end=end)
        cache.differences = _differences(file, model)
        return cache


def require_prompt(file: CacheFile) -> None:
    """WeightsError for a file of keys and values that holds no prompt."""
    if file.metadata.get(MARK) != FORMAT:
        raise WeightsError(f"{file.path}: holds keys and values, but no prompt that they belong to")


def check_place(path: Path, *, written: bool) -> None:
    """Raise OSError where no file of this name can be read, or `written`, before anything is computed for it."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder '{path.parent}' to write it into", str(path))
    if written and not os.access(path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _text_length(file: CacheFile, length: int, limit: int) -> int:
    """How long the text was whose beginning the file holds, on which its angles may depend."""
    said = file.metadata.get(TEXT_LENGTH, "")
    number = int(said) if said.isascii() and said.isdecimal() and len(said) < 19 else -1
    if not length <= number <= limit:
        raise WeightsError(f"{file.path}: must say of how long a text it holds {length} ids, not {said[:40]!r}")
    return number


def _differences(file: CacheFile, model: Any) -> tuple[str, ...]:
    """In what the machine that made the file differs from this one, as far as last bits may depend on it."""
    try:
        said = json.loads(file.metadata.get(MADE_BY, "null"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise WeightsError(f"{file.path}: doesn't say on what it was made")
    here = surroundings(model)
    return tuple(
        f"{name} {str(said.get(name))[:80]}, here {value}" for name, value in here.items() if said.get(name) != value
    )
