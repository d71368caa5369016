"""What a config.json says about rotary embeddings, in the older spelling and in that of transformers 5."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_blocks.config import ConfigKeys


@dataclass(frozen=True, kw_only=True)
class Rope:
    """The rotary embedding of one model; each kind reads the fields that belong to it.

    `original_max_positions` is the trained length that llama3, yarn and longrope extend and that dynamic outgrows.
    `partial` is the share of a head's dimensions that turn, its first ones.
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
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    short_mscale: float | None = None
    long_mscale: float | None = None
    partial: float = 1.0

    def __post_init__(self) -> None:
        if self.high_freq_factor <= self.low_freq_factor:
            got = f"{self.high_freq_factor} and {self.low_freq_factor}"
            raise ValueError(f"high_freq_factor must be above low_freq_factor, got {got}")
        if not 0 < self.partial <= 1:
            raise ValueError(f"the share of a head that turns must be above 0 and at most 1, got {self.partial}")
        scaled = self.attention_factor is None and self.short_mscale is None and self.factor > 1
        if self.kind == "longrope" and self.original_max_positions == 1 and scaled:
            raise ValueError("LongRoPE scales by the logarithm of the trained length, which must be above 1")
        if len(self.short_factor) != len(self.long_factor):
            raise ValueError(
                f"short_factor has {len(self.short_factor)} numbers and long_factor {len(self.long_factor)}; "
                "each needs one for every pair of dimensions that turns"
            )

    @property
    def long_from(self) -> int | None:
        """The length beyond which a row, or a cache that may hold one, has LongRoPE's long factors; None otherwise."""
        return self.original_max_positions if self.kind == "longrope" else None

    def require_fits(self, head_dim: int) -> None:
        """Raise ValueError unless the dimensions of a head that turn are pairs, with a factor each for LongRoPE."""
        turning = int(head_dim * self.partial)
        if turning < 2 or turning % 2:
            raise ValueError(
                f"dimensions turn in pairs, so {self.partial} of {head_dim} must be an even number of them"
            )
        if self.kind == "longrope" and len(self.short_factor) != turning // 2:
            raise ValueError(f"LongRoPE needs {turning // 2} factors, one for each pair, got {len(self.short_factor)}")


def yarn_scale(factor: float, mscale: float) -> float:
    """YaRN's 0.1 m ln(s) + 1, for s above 1 (arXiv 2309.00071, §3.4)."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def extended_length(length: int, rope: Rope) -> int:
    """The context in positions of a file that says `length`: YaRN may have been switched on by adding its settings."""
    extended = rope.factor * rope.original_max_positions if rope.kind == "yarn" else 0
    return max(length, int(min(extended, 2**31 - 1)))


_LENGTH = "original_max_position_embeddings"
_SHARE = "partial_rotary_factor"

# kind -> the keys it needs and the keys it may have, spelt as in config.json
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), (_LENGTH,)),
    "yarn": (("factor",), (_LENGTH, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")),
    "longrope": ((), (_LENGTH, "factor", "attention_factor", "short_mscale", "long_mscale")),
}
_EXTENDED = ("llama3", "yarn", "longrope")
_ALIASES = {"su": "longrope"}  # as the first Phi-3 files call it
_FACTORS = ("short_factor", "long_factor")
_INERT = frozenset({"finetuned"})  # a note that early YaRN checkpoints carry


def parse_rope(
    keys: ConfigKeys,
    *,
    max_positions: int,
    theta: float = 10_000.0,
    partial: float | None = None,
    trained: int | None = None,
) -> Rope:
    """Read the rotary keys of a config.json: `rope_parameters`, or `rope_theta` with `rope_scaling`.

    Raises ValueError for an unknown kind, a key that the kind doesn't have, a missing one, or two spellings that
    disagree. The last three say what holds where the file says nothing: the base; the share of a head that turns
    (`partial_rotary_factor`), None for an architecture that turns whole heads; the trained length, by default
    `max_positions`.
    """
    outer = _Outer(
        theta=keys.optional_number("rope_theta"),
        length=keys.optional_integer(_LENGTH),
        share=keys.optional_number(_SHARE) if partial is not None else None,
        max_positions=max_positions,
        default_theta=theta,
        default_length=trained or max_positions,
        partial=partial,
    )
    if partial is None:
        keys.require(_SHARE, (1,), "only whole heads are rotated")
    new, old = keys.optional_mapping("rope_parameters"), keys.optional_mapping("rope_scaling")
    found = [_parse(each, outer) for each in (new, old) if each]
    if len(found) == 2 and found[0] != found[1]:
        raise ValueError("rope_parameters and rope_scaling disagree; keep the one that the model was trained with")
    return found[0] if found else _parse({}, outer)


def parse_rope_settings(
    raw: Mapping[str, Any], *, max_positions: int, theta: float = 10_000.0, partial: float | None = None
) -> Rope:
    """Read one mapping of rotary settings, for files that have several, such as one for each kind of layer."""
    outer = _Outer(
        theta=None,
        length=None,
        share=None,
        max_positions=max_positions,
        default_theta=theta,
        default_length=max_positions,
        partial=partial,
    )
    return _parse(raw, outer)


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
    if rope.kind == "longrope":
        out |= {key: list(getattr(rope, key)) for key in _FACTORS}
    if rope.partial != 1:
        out[_SHARE] = rope.partial
    return out


@dataclass(frozen=True, kw_only=True)
class _Outer:
    """What a config.json says beside its rotary settings, and what holds where it says nothing."""

    theta: float | None
    length: int | None
    share: float | None
    max_positions: int
    default_theta: float
    default_length: int
    partial: float | None


def _parse(raw: Mapping[str, Any], outer: _Outer) -> Rope:
    keys = ConfigKeys(raw, where="the rotary settings")
    kind = keys.text("rope_type", default=keys.text("type", default="default"))
    kind = _ALIASES.get(kind, kind)
    if kind not in _KINDS:
        raise ValueError(f"rope_type {kind[:200]!r} is not supported; supported are {', '.join(_KINDS)}")
    needed, optional = _KINDS[kind]
    values: dict[str, Any] = {_field(key): keys.number(key) for key in needed}
    values |= {_field(key): keys.optional_number(key) for key in optional if key != _LENGTH}
    own_length = keys.optional_integer(_LENGTH) if _LENGTH in optional else None
    if kind in _EXTENDED:  # a length beside the rotary settings wins, as in transformers
        values["original_max_positions"] = outer.length or own_length or outer.default_length
    elif kind == "dynamic":
        values["original_max_positions"] = outer.max_positions
    if kind == "yarn":
        values["truncate"] = keys.flag("truncate", default=True)
        _multiply_attention_factor(keys, values)
    if kind == "longrope":
        values |= {key: keys.numbers(key) for key in _FACTORS}
        values["factor"] = values["factor"] or outer.max_positions / values["original_max_positions"]
    values["theta"] = _one("rope_theta", outer.theta, keys.optional_number("rope_theta")) or outer.default_theta
    if outer.partial is not None:
        values["partial"] = _one(_SHARE, outer.share, keys.optional_number(_SHARE)) or outer.partial
    else:
        keys.require(_SHARE, (1, None), "only whole heads are rotated")
    # the linear kind shrinks positions alike at every length; some files note the trained one all the same
    keys.finish(inert=_INERT | {_LENGTH} if kind == "linear" else _INERT)
    if values["theta"] <= 1:
        raise ValueError(f"rope_theta must be above 1, for wavelengths grow by its powers, got {values['theta']}")
    return Rope(kind=kind, **{field: value for field, value in values.items() if value is not None})


def _multiply_attention_factor(keys: ConfigKeys, values: dict[str, Any]) -> None:
    """`attn_factor` multiplies the usual factor of YaRN, which `attention_factor` replaces (DeepSeek-R1-0528-Qwen3-8B).

    So it does in the code of YaRN's authors; transformers takes no notice of it.
    """
    multiple = keys.optional_number("attn_factor")
    if multiple is None:
        return
    if any(values[key] is not None for key in ("attention_factor", "mscale", "mscale_all_dim")):
        raise ValueError("attn_factor and another factor of attention contradict each other; keep one of them")
    values["attention_factor"] = multiple * yarn_scale(values["factor"], 1.0)


def _one(key: str, outer: float | None, inner: float | None) -> float | None:
    """The value of a key that may stand beside the rotary settings or inside them."""
    if inner is not None and outer is not None and inner != outer:
        raise ValueError(f"{key} is {outer} beside the rotary settings and {inner} inside them; keep the right one")
    return inner if inner is not None else outer


def _field(key: str) -> str:
    return "original_max_positions" if key == _LENGTH else key
