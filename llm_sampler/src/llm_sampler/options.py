"""What a caller may ask of the sampler: values checked on the host, then laid out as tensors on the device.

Shapes: B batch, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from .noise import check_seeds, row_seeds

PerRow = float | None | Sequence[float | None] | Tensor
Bias = Mapping[int, float] | Sequence[Mapping[int, float] | None] | Tensor
Allowed = Callable[[Tensor], Tensor] | Tensor

# Below this temperature logits / temperature may overflow, and the draw is the argmax anyway.
_GREEDY_BELOW = 1e-5
_OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0}
_OFF |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_new_tokens": 0}
_INTEGERS = ("top_k", "min_new_tokens")
_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda x: x >= 0, "0 (greedy) or above"),
    "top_k": (lambda x: x >= -1, "at least 1 (0, -1 or None keep all tokens)"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1 (1 keeps all tokens)"),
    "min_p": (lambda x: 0 <= x <= 1, "from 0 to 1 (0 keeps all tokens)"),
    "typical_p": (lambda x: 0 < x <= 1, "above 0 and at most 1 (1 keeps all tokens)"),
    "repetition_penalty": (lambda x: x > 0, "above 0 (1 changes nothing)"),
    "presence_penalty": (lambda x: -2 <= x <= 2, "from -2 to 2 (0 changes nothing)"),
    "frequency_penalty": (lambda x: -2 <= x <= 2, "from -2 to 2 (0 changes nothing)"),
    "min_new_tokens": (lambda x: x >= 0, "0 or above"),
}


class OptionValues(TypedDict, total=False):
    """The keyword options of `sample` and `steps`; `SamplingOptions` tells their meaning."""

    temperature: PerRow
    top_k: PerRow
    top_p: PerRow
    min_p: PerRow
    typical_p: PerRow
    repetition_penalty: PerRow
    presence_penalty: PerRow
    frequency_penalty: PerRow
    logit_bias: Bias | None
    allowed: Allowed | None
    min_new_tokens: PerRow
    end_ids: Sequence[int] | Sequence[Sequence[int]] | Tensor
    stop_ids: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]]
    generator: torch.Generator | None
    seeds: Sequence[int | None] | Tensor | None
    logprobs: int | None


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to choose ids and when to stop. Each number is one value for all rows or a sequence or tensor (B,) of them.

    None, for all or in one row, switches a filter off. temperature 0 is greedy. logit_bias: (V,) or (B, V) or
    {id: bias} or one such mapping per row. allowed: mask (V,) or (B, V) of bool, or a function that gets the ids
    generated so far, (B, n) with -1 after a row's end, and returns such a mask. end_ids: ids, or one list of them per
    row. stop_ids: sequences of ids, or one list of sequences per row; only generated ids count. seeds: one integer per
    row. logprobs: how many of the most probable ids to report, 0 for the chosen id alone. Raises ValueError.
    """

    temperature: PerRow = 1.0
    top_k: PerRow = None
    top_p: PerRow = None
    min_p: PerRow = None
    typical_p: PerRow = None
    repetition_penalty: PerRow = None
    presence_penalty: PerRow = None
    frequency_penalty: PerRow = None
    logit_bias: Bias | None = None
    allowed: Allowed | None = None
    min_new_tokens: PerRow = 0
    end_ids: Sequence[int] | Sequence[Sequence[int]] | Tensor = ()
    stop_ids: Sequence[Sequence[int]] | Sequence[Sequence[Sequence[int]]] = ()
    generator: torch.Generator | None = None
    seeds: Sequence[int | None] | Tensor | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name in _RULES:
            value = getattr(self, name)
            for row, number in enumerate(_listed(value)):
                check_number(name, number, row if isinstance(value, Sequence | Tensor) else None)
        if self.logprobs is not None:
            check_integer("logprobs", self.logprobs, 0)

    def rows(self, name: str, batch: int) -> list[float]:
        """The values of one numeric option, one per row, with None replaced by the value that does nothing."""
        values = per_row(name, getattr(self, name), batch)
        return [_OFF[name] if value is None else value for value in values]

    def check(self, batch: int) -> None:
        """Raise ValueError if an option with one value per row has another number of values."""
        for name in _RULES:
            self.rows(name, batch)
        if self.seeds is not None:
            check_seeds(batch, self.generator, self.seeds)
        if isinstance(self.logit_bias, Sequence) and len(self.logit_bias) != batch:
            raise ValueError(_wrong_rows("logit_bias", len(self.logit_bias), batch))

    def settings(self, batch: int, vocab: int, device: torch.device, *, ends: Tensor | None = None) -> "Settings":
        """The options as tensors on the device; what does nothing is None. `ends` (B, E): end ids, -2 for no id."""
        temperatures = self.rows("temperature", batch)
        greedy = [t < _GREEDY_BELOW for t in temperatures]
        safe = [1.0 if g else t for g, t in zip(greedy, temperatures, strict=True)]
        top_k = [0 if k < 1 else int(k) for k in self.rows("top_k", batch)]
        column = {name: _column(self.rows(name, batch), _OFF[name], device) for name in _RULES}
        return Settings(
            all_greedy=all(greedy),
            greedy=torch.tensor(greedy, device=device) if any(greedy) else None,
            temperature=_column(safe, 1.0, device),
            top_k=_column(top_k, 0, device),
            top_k_bound=min(max(top_k), vocab),
            top_k_everywhere=min(top_k) > 0,
            top_p=column["top_p"],
            min_p=column["min_p"],
            typical_p=column["typical_p"],
            repetition_penalty=column["repetition_penalty"],
            presence_penalty=column["presence_penalty"],
            frequency_penalty=column["frequency_penalty"],
            min_new_tokens=column["min_new_tokens"] if ends is not None else None,
            end_mask=_end_mask(ends, vocab) if ends is not None and column["min_new_tokens"] is not None else None,
            bias=_dense_bias(self.logit_bias, batch, vocab, device),
            # Greedy rows alone draw nothing, so they leave the generator as it is.
            seeds=torch.zeros(batch, dtype=torch.int64, device=device)
            if all(greedy)
            else row_seeds(batch, device, generator=self.generator, seeds=self.seeds),
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of a batch on its device, for `pick`: tensors (B, 1) of float32, or None where nothing is asked."""

    all_greedy: bool
    greedy: Tensor | None  # (B,) bool
    temperature: Tensor | None
    top_k: Tensor | None  # int64, 0 keeps all
    top_k_bound: int
    top_k_everywhere: bool
    top_p: Tensor | None
    min_p: Tensor | None
    typical_p: Tensor | None
    repetition_penalty: Tensor | None
    presence_penalty: Tensor | None
    frequency_penalty: Tensor | None
    min_new_tokens: Tensor | None
    end_mask: Tensor | None  # (B, V) bool
    bias: Tensor | None  # (V,) or (B, V)
    seeds: Tensor  # (B,) int64

    @property
    def needs_seen(self) -> bool:
        """Whether `pick` needs to know which tokens the prompt and the answer hold."""
        return self.repetition_penalty is not None

    @property
    def needs_counts(self) -> bool:
        """Whether `pick` needs to know how often each token was generated."""
        return self.presence_penalty is not None or self.frequency_penalty is not None


def check_number(name: str, value: Any, row: int | None = None) -> None:
    """Raise ValueError unless the value of this option keeps its rule; None always does."""
    if value is None:
        return
    kind = "an integer" if name in _INTEGERS else "a finite number"
    good_type = type(value) is int if name in _INTEGERS else type(value) in (int, float) and math.isfinite(value)
    test, rule = _RULES[name]
    if not good_type or not test(value):
        where = "" if row is None else f" for row {row}"
        raise ValueError(f"{name} must be {kind}, {rule}, got {value!r}{where}.")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise ValueError unless the value is an int (and not a bool) of at least `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")


def per_row(name: str, value: Any, batch: int) -> list[Any]:
    """One value per row from a scalar, a sequence or a tensor; raises ValueError for another number of rows."""
    if value is None or isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0):
        return _listed(value) * batch
    values = _listed(value)
    if len(values) != batch:
        raise ValueError(_wrong_rows(name, len(values), batch))
    return values


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return value.reshape(-1).tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _wrong_rows(name: str, got: int, batch: int) -> str:
    return f"{name} must hold one value per row ({batch}), got {got}; give {batch} values or one for all rows."


def _column(values: Sequence[float], off: float, device: torch.device) -> Tensor | None:
    if all(value == off for value in values):
        return None
    return torch.tensor(values, device=device, dtype=torch.int64 if type(off) is int else torch.float32).unsqueeze(1)


def _end_mask(ends: Tensor, vocab: int) -> Tensor:
    # An extra column takes the ids that the vocabulary doesn't have, the filler -2 among them.
    columns = torch.where((ends >= 0) & (ends < vocab), ends, vocab)
    mask = torch.zeros(ends.shape[0], vocab + 1, dtype=torch.bool, device=ends.device)
    return mask.scatter_(1, columns, True)[:, :vocab]


def _dense_bias(bias: Bias | None, batch: int, vocab: int, device: torch.device) -> Tensor | None:
    if bias is None:
        return None
    if isinstance(bias, Tensor):
        if bias.shape not in ((vocab,), (batch, vocab)):
            raise ValueError(f"logit_bias must be (V,) or (B, V) = ({batch}, {vocab}), got {tuple(bias.shape)}.")
        dense = bias.to(device, torch.float32)
    else:
        rows = [bias] if isinstance(bias, Mapping) else [row or {} for row in bias]
        dense = torch.stack([_bias_row(row, vocab) for row in rows]).to(device)
    if bool((dense.isnan() | (dense == torch.inf)).any()):
        raise ValueError("logit_bias must hold finite numbers or -inf (which forbids a token), got nan or inf.")
    return dense


def _bias_row(bias: Mapping[int, float], vocab: int) -> Tensor:
    dense = torch.zeros(vocab)
    for token, value in bias.items():
        if type(token) is not int or not 0 <= token < vocab:
            raise ValueError(f"logit_bias must name ids from 0 to {vocab - 1}, got {token!r}.")
        dense[token] = value
    return dense
