"""What a config.json says about rotary embeddings, in the older spelling and in that of transformers 5."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_blocks.config import ConfigKeys


@dataclass(frozen=True, kw_only=True)
class Rope:
    """The rotary embedding of one model; each kind reads the fields that belong to it.

    `original_max_positions` is the trained length that llama3 and yarn extend and that dynamic outgrows.
    """

    kind: str = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    original_max_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            got = f"{self.high_freq_factor} and {self.low_freq_factor}"
            raise ValueError(f"high_freq_factor must be above low_freq_factor, got {got}")


_LENGTH = "original_max_position_embeddings"

# kind -> the keys it needs and the keys it may have, spelt as in config.json
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), (_LENGTH,)),
    "yarn": (("factor",), (_LENGTH, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")),
}
_EXTENDED = ("llama3", "yarn")
_INERT = frozenset({"finetuned"})  # a note that early YaRN checkpoints carry


def parse_rope(keys: ConfigKeys, *, max_positions: int) -> Rope:
    """Read the rotary keys of a config.json: `rope_parameters`, or `rope_theta` with `rope_scaling`.

    Raises ValueError for an unknown kind, a key that the kind doesn't have, a missing one, or two spellings that
    disagree. `max_positions` is the trained length where the file doesn't name another.
    """
    theta = keys.optional_number("rope_theta")
    length = keys.optional_integer(_LENGTH)
    new, old = keys.optional_mapping("rope_parameters"), keys.optional_mapping("rope_scaling")
    found = [_parse(each, theta, length, max_positions) for each in (new, old) if each]
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError("rope_parameters and rope_scaling disagree; keep the one that the model was trained with")
    return found[0] if found else Rope(theta=_theta(theta, None))


def rope_to_hf(rope: Rope) -> dict[str, Any]:
    """The value of `rope_parameters` that `parse_rope` reads back, as transformers 5 spells it."""
    needed, optional = _KINDS[rope.kind]
    out: dict[str, Any] = {"rope_type": rope.kind, "rope_theta": rope.theta}
    for key in (*needed, *optional):
        value = getattr(rope, _field(key))
        if value is not None:
            out[key] = value
    if rope.kind == "yarn":
        out["truncate"] = rope.truncate
    return out


def _parse(raw: Mapping[str, Any], theta: float | None, length: int | None, max_positions: int) -> Rope:
    keys = ConfigKeys(raw, where="the rotary settings")
    kind = keys.text("rope_type", default=keys.text("type", default="default"))
    if kind not in _KINDS:
        raise ValueError(f"rope_type {kind!r} is not supported; supported are {', '.join(_KINDS)}")
    needed, optional = _KINDS[kind]
    values: dict[str, Any] = {_field(key): keys.number(key) for key in needed}
    values |= {_field(key): keys.optional_number(key) for key in optional if key != _LENGTH}
    if kind == "yarn":
        values["truncate"] = keys.flag("truncate", default=True)
    own_length = keys.optional_integer(_LENGTH) if _LENGTH in optional else None
    if kind in _EXTENDED:  # a length beside the rotary settings wins, as in transformers
        values["original_max_positions"] = length or own_length or max_positions
    elif kind == "dynamic":
        values["original_max_positions"] = max_positions
    values["theta"] = _theta(keys.optional_number("rope_theta"), theta)
    keys.require("partial_rotary_factor", (1, None), "only whole heads are rotated")
    # the linear kind shrinks positions alike at every length; some files note the trained one all the same
    keys.finish(inert=_INERT | {_LENGTH} if kind == "linear" else _INERT)
    return Rope(kind=kind, **{field: value for field, value in values.items() if value is not None})


def _theta(inner: float | None, outer: float | None) -> float:
    if inner is not None and outer is not None and inner != outer:
        raise ValueError(
            f"rope_theta is {outer} beside the rotary settings and {inner} inside them; keep the right one"
        )
    theta = inner or outer or 10_000.0
    if theta <= 1:
        raise ValueError(f"rope_theta must be above 1, for wavelengths grow by its powers, got {theta}")
    return theta


def _field(key: str) -> str:
    return "original_max_positions" if key == _LENGTH else key
