"""Feed prompts to a model in chunks, and keep what it has read. Shapes: B batch, T time, V vocabulary, L layers."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_cli.adapters import active
from llm_cli.pieces import angles, common_prefix, cut_below, read_pieces

CHUNK = 1024  # positions of a prompt in one forward: bounds the memory of hidden states; smaller is slower
ROUND = 256  # caches grow in steps, so that a conversation doesn't copy its cache every turn


class PromptCache:
    """The ids that a model has read in one conversation, with their keys and values.

    Give the same object to each call of a conversation: only what differs from the ids before is read again. With
    `exact` a call gives, bit for bit, what it would give with an empty cache: of the ids before, only the pieces of
    pieces.py are taken over, and nothing of an answer, whose keys came one by one and have other last bits; a prompt
    that is that of the call before is not read at all. `save` and `load` keep such a prompt in a file.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.exact = exact
        self._ids: list[int] = []
        self._kv: Any = None
        self._model: Any = None
        self._active: tuple[tuple[str, float], ...] = ()  # the adapters under which the model has read
        self._whole = 0  # positions that were read in pieces, up to a cut
        self._angles = 0  # of the text that they were read for
        self._end: Tensor | None = None  # logits (1, 1, V) after all ids, where these are one exactly read prompt
        self._kept: tuple[list[int], Any] | None = None  # pieces that windows of `_kv` may have forgotten
        self.text_length = 0
        """How long the prompt is that was read last."""
        self.differences: tuple[str, ...] = ()
        """Where it was loaded from a file, in what the machine that made that differs: last bits may depend on it."""

    @classmethod
    def load(cls, path: str | Path, model: Any) -> "PromptCache":
        """The exact cache that `save` wrote to `path`, for the same model in the same precision.

        WeightsError, a ValueError, for another model and for a file that is damaged or no such file.
        """
        from llm_cli.prompt_file import load

        return load(path, model)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the prompt that was read last to a safetensors file, which appears whole or not at all.

        ValueError where none was read exactly, WeightsError where `path` exists, unless `overwrite` is True.
        """
        from llm_cli.prompt_file import save

        save(self, path, overwrite=overwrite)

    def read(self, model: Any, ids: list[int], length: int) -> tuple[Any, int, Tensor]:
        """Read a prompt: its KV cache with room for `length` positions, how many of `ids` were known, logits (1, 1, V).

        The logits are those after the last id.
        """
        end = self._end
        kv = self.prepare(model, ids, length)
        known = kv.lengths[0]
        if known == len(ids):
            assert end is not None, "all of a prompt is known only where its logits are"
            self._end, kv.aims[0] = end, known
            return kv, known, end
        if self.exact:
            read_pieces(model, kv, ids, cut_below(len(ids) - 1))
            self._keep(model, kv, ids)
        logits = prefill(model, kv, [ids])
        self._ids = list(ids)
        if self.exact:
            self._whole, self._end = cut_below(len(ids)), logits
        return kv, known, logits

    def prepare(self, model: Any, ids: list[int], length: int) -> Any:
        """A KV cache with room for `length` positions that holds as much of `ids` as was read before.

        At least the last id is left to read, because its logits are wanted, unless they are known too.
        """
        known, old, now = 0, self._kv, active(model)
        if old is None or self._model is not model or self._active != now or not _fits(old, model):
            self._kv, self._model, self._active, self._kept = model.new_cache(1, length), model, now, None
        else:
            known, old = self._usable(ids)
            if old.capacity < length or old is not self._kv:
                old.truncate(known)
                self._kv = model.new_cache(1, max(length, old.capacity))
                self._kv.copy_from(old)
        self._kv.truncate(known)
        self._ids, self._whole, self._end = ids[:known], min(known, self._whole), None
        return self._kv

    def _usable(self, ids: list[int]) -> tuple[int, Any]:
        """How many of `ids` are known, and the cache that holds them."""
        old = self._kv
        # less than was read, where an interruption came while it was copied
        known = min(common_prefix(self._ids, ids[:-1]), old.lengths[0])
        if not self.exact:
            return (known if old.holds(0, known, aim=len(ids)) else 0), old
        if angles(old, self._model.config, len(ids)) != self._angles:
            return 0, old
        known = cut_below(min(known, self._whole))
        if self._end is not None and ids == self._ids and old.lengths[0] >= len(ids):
            known = len(ids)
        if known and old.holds(0, known, aim=len(ids)):
            return known, old
        if self._kept is not None and common_prefix(self._kept[0], ids[:-1]) == len(self._kept[0]):
            self._whole = len(self._kept[0])
            return self._whole, self._kept[1]
        return 0, old

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids that are noted as read."""
        return tuple(self._ids)

    @property
    def model(self) -> Any:
        """The model that read what this holds; None at first."""
        return self._model

    def readable(self) -> tuple[list[int], Any, Tensor | None]:
        """What of the prompt read last can be taken over exactly: its ids, a KV cache of them, logits after the last.

        The cache may hold more. ValueError where there is nothing.
        """
        ids, kv = self._ids[: self.text_length], self._kv
        if self._end is not None and kv.holds(0, len(ids)) and kv.holds(0, min(cut_below(len(ids) - 1), self._whole)):
            return ids, kv, self._end
        if self._kept is not None:
            return *self._kept, None
        raise ValueError("nothing was read exactly, so there is nothing to save; read a prompt with exact=True first")

    def restore(self, model: Any, ids: list[int], kv: Any, *, text_length: int, end: Tensor | None) -> None:
        """Take over what another cache has given as `readable`, which began a prompt of `text_length` ids."""
        self._model, self._ids, self._kv, self._end = model, ids, kv, end
        self._active = active(model)
        self._whole, self.text_length = cut_below(len(ids)), text_length
        self._angles = angles(kv, model.config, text_length)

    def _keep(self, model: Any, kv: Any, ids: list[int]) -> None:
        """Keep a copy of the pieces that were read, where windows would forget them with the rest of the text."""
        self._kept, self._angles, self.text_length = None, angles(kv, model.config, len(ids)), len(ids)
        slots, whole = [kv.slots(window) for window in kv.windows.values()], kv.lengths[0]
        if whole and slots and min(slots) < kv.capacity:
            copy = model.new_cache(1, max(whole, *slots))  # with the slots of `kv`, in the same order
            copy.copy_from(kv)
            self._kept = ids[:whole], copy

    @property
    def known(self) -> int:
        """How many ids are noted as read."""
        return len(self._ids)

    def extend(self, ids: list[int]) -> None:
        """Note ids that were read after those known so far; of an exact cache they are no part."""
        if not self.exact:
            self._ids += ids

    def rewind(self, length: int) -> None:
        """Forget the ids from position `length` on, which are about to be written over."""
        del self._ids[length:]

    @cached_property
    def draft(self) -> "PromptCache":
        """The same for a draft model, which reads the same conversation."""
        return PromptCache()


def rounded(length: int, limit: int) -> int:
    """`length` rounded up to the step in which caches grow, but no more than `limit`."""
    return min(limit, -(-length // ROUND) * ROUND)


@torch.inference_mode()
def prefill(model: Any, kv: Any, prompts: list[list[int]], *, chunk: int | None = None) -> Tensor:
    """Read what the cache doesn't hold of each prompt; the logits after each prompt's last id, (B, 1, V).

    At most `chunk` positions go through the model at a time, CHUNK where it is None.
    """
    chunk = CHUNK if chunk is None else chunk
    device = next(model.parameters()).device
    kv.aims[:] = map(len, prompts)
    rest = [ids[start:] for ids, start in zip(prompts, kv.lengths, strict=True)]
    logits = None
    for at in range(0, max(map(len, rest)), chunk):
        pieces = [ids[at : at + chunk] for ids in rest]
        counts = [len(piece) for piece in pieces]
        out = model(padded(pieces).to(device), kv, counts=counts, last_only=True)
        ended_before = torch.tensor(counts, device=device)[:, None, None] == 0
        logits = out if logits is None else torch.where(ended_before, logits, out)
    assert logits is not None
    return logits


@torch.inference_mode()
def spread(model: Any, kv: Any, copies: int, length: int) -> Any:
    """A cache of `length` positions whose rows are those of `kv`, each `copies` times."""
    result = model.new_cache(len(kv.lengths) * copies, length)
    result.copy_from(kv, copies)
    return result


def padded(rows: list[list[int]]) -> Tensor:
    """Rows of ids as one tensor (B, T), padded with 0 on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)


def _fits(kv: Any, model: Any) -> bool:
    """Whether the cache is of the device and dtype that the model has now (it may have been moved in between)."""
    weight = next(model.parameters())
    keys = next(iter(kv.k.values()))
    return keys.device == weight.device and keys.dtype == (model.cache_dtype or weight.dtype)
