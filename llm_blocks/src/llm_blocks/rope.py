"""Rotary position embeddings as functions of positions (arXiv 2104.09864): nothing is stored between forwards.

Shapes: B batch, T time, H heads, D head size, R dimensions of a head that turn (D unless the embedding is partial).
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from llm_blocks import training
from llm_blocks.rope_config import Rope, yarn_scale
from llm_quant import steps

RopeTable: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and signed sines, each (1 or B, 1, T, R), of one forward: computed once and passed down to every layer."""


def rope_table(
    rope: Rope,
    head_dim: int,
    positions: Tensor,
    *,
    lengths: list[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> RopeTable:
    """Cosines and signed sines (1 or B, 1, T, R) of the angles of positions (1 or B, T); R dimensions of a head turn.

    `lengths` says how long the text of each row is taken to be, on which the dynamic kind and LongRoPE depend. Angles
    are fp32.
    """
    frequencies = rope_frequencies(rope, head_dim, lengths=lengths, device=positions.device)
    angles = positions[..., None].float() * frequencies  # (1 or B, T, R/2)
    scale = attention_scale(rope, lengths=lengths)
    if isinstance(scale, list):
        scale = torch.tensor(scale, device=positions.device)[:, None, None]  # (B, 1, 1)
    cos, sin = angles.cos() * scale, angles.sin() * scale
    # rotate() adds the swapped halves times sin, so the minus sign of the first half lives here, once a forward
    return _spread(cos, cos, dtype), _spread(-sin, sin, dtype)


def rotate(x: Tensor, table: RopeTable) -> Tensor:
    """Turn each head of x (B, H, T, D) by its angles: the first half of R dimensions against the second half.

    Where the table is narrower than the heads, the dimensions after its R stay as they are.
    """
    cos, signed_sin = table
    if not cos.requires_grad and training.applies(x, cos):
        return training.Rotate.apply(x, cos, signed_sin)
    turned = steps.rotate(x, cos, signed_sin)
    if turned is not None:
        return turned
    turning = cos.size(-1)
    if turning < x.size(-1):
        return torch.cat((rotate(x[..., :turning], table), x[..., turning:]), dim=-1)
    return torch.addcmul(x * cos, x.roll(turning // 2, -1), signed_sin)  # (B, H, T, D)


def pairs_to_halves(x: Tensor) -> Tensor:
    """Heads (B, H, T, R) whose neighbours turn against each other, reordered for `rotate`: evens first, then odds.

    Queries and keys that are both reordered have the same products, so nothing needs to be put back.
    """
    return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def rope_frequencies(
    rope: Rope,
    head_dim: int,
    *,
    lengths: list[int] | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Radians per position of each pair of dimensions that turns: (R/2,), or (B, 1, R/2) where rows differ."""
    rope.require_fits(head_dim)
    return _KINDS[rope.kind](rope, _exponents(int(head_dim * rope.partial), device), lengths)


def attention_scale(rope: Rope, *, lengths: list[int] | None = None) -> float | list[float]:
    """The factor on cosines and sines, one for all rows or one for each of `lengths`.

    1 but for YaRN, by default 0.1 ln(s) + 1 (arXiv 2309.00071, §3.4), and LongRoPE, by default
    sqrt(1 + ln(s) / ln(trained length)) (arXiv 2402.13753, as Phi-3 has it).
    """
    if rope.kind == "longrope" and rope.short_mscale and rope.long_mscale:
        scales = [rope.long_mscale if long else rope.short_mscale for long in _long(rope, lengths)]
        return scales if len(set(scales)) > 1 else scales[0]
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.kind == "longrope" and rope.factor > 1:
        return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_positions))
    if rope.kind != "yarn":
        return 1.0
    if rope.mscale and rope.mscale_all_dim:
        return yarn_scale(rope.factor, rope.mscale) / yarn_scale(rope.factor, rope.mscale_all_dim)
    return yarn_scale(rope.factor, 1.0)


def _spread(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat((first, second), dim=-1).to(dtype).unsqueeze(-3)  # (1 or B, 1, T, R)


def _exponents(turning: int, device: torch.device | str | None) -> Tensor:
    return torch.arange(0, turning, 2, dtype=torch.float32, device=device) / turning  # (R/2,)


def _default(rope: Rope, exponents: Tensor, lengths: list[int] | None) -> Tensor:
    return 1.0 / (rope.theta**exponents)


def _linear(rope: Rope, exponents: Tensor, lengths: list[int] | None) -> Tensor:
    """Position interpolation (arXiv 2306.15595): positions shrink by the factor."""
    return _default(rope, exponents, lengths) / rope.factor


def _dynamic(rope: Rope, exponents: Tensor, lengths: list[int] | None) -> Tensor:
    """NTK-aware scaling whose base grows with the row's current length, once that passes the trained length.

    Keys that a cache already holds keep the angles of the length at which they were written, as in `transformers`.
    """
    if lengths is None:
        return _default(rope, exponents, lengths)
    trained, dim = rope.original_max_positions, 2 * exponents.numel()
    if dim == 2:
        raise ValueError("dynamic rotary embeddings need heads of more than 2 dimensions")
    outgrown = torch.tensor(lengths, device=exponents.device).clamp(min=trained)  # (B,)
    stretch = (rope.factor * outgrown / trained) - (rope.factor - 1)
    theta = rope.theta * stretch ** (dim / (dim - 2))  # (B,)
    return 1.0 / (theta[:, None, None] ** exponents)  # (B, 1, D/2)


def _llama3(rope: Rope, exponents: Tensor, lengths: list[int] | None) -> Tensor:
    """Llama 3.1: long wavelengths shrink by the factor, short ones stay, those between are blended."""
    frequencies = _default(rope, exponents, lengths)
    wavelengths = 2 * math.pi / frequencies
    trained, low, high = rope.original_max_positions, rope.low_freq_factor, rope.high_freq_factor
    blend = ((trained / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / rope.factor + blend * frequencies


def _yarn(rope: Rope, exponents: Tensor, lengths: list[int] | None) -> Tensor:
    """YaRN (arXiv 2309.00071, §3.2): a ramp over the dimensions from extrapolation to interpolation."""
    wavelengths = rope.theta**exponents  # over 2 pi
    low, high = _yarn_range(rope, 2 * exponents.numel())
    index = torch.arange(exponents.numel(), dtype=torch.float32, device=exponents.device)
    keep = 1 - ((index - low) / (high - low)).clamp(0, 1)
    return (1 / (rope.factor * wavelengths)) * (1 - keep) + (1 / wavelengths) * keep


def _yarn_range(rope: Rope, dim: int) -> tuple[float, float]:
    """The dimensions that turn beta_fast and beta_slow times within the trained length."""
    low, high = (
        dim * math.log(rope.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        for turns in (rope.beta_fast, rope.beta_slow)
    )
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return low, high if high != low else high + 0.001  # a ramp needs a width


def _longrope(rope: Rope, exponents: Tensor, lengths: list[int] | None) -> Tensor:
    """LongRoPE (arXiv 2402.13753): every frequency has its own factor, another one for texts beyond the trained length.

    A text that grows past it is read again from the start, for all its positions have other angles then.
    """
    factors = [rope.long_factor if long else rope.short_factor for long in _long(rope, lengths)]
    alike = all(each is factors[0] for each in factors)
    table = torch.tensor(factors[0] if alike else factors, device=exponents.device)  # (R/2,) or (B, R/2)
    frequencies = 1.0 / (table * rope.theta**exponents)
    return frequencies if alike else frequencies[:, None]


def _long(rope: Rope, lengths: list[int] | None) -> list[bool]:
    return [length > rope.original_max_positions for length in lengths or [0]]


_KINDS: dict[str, Callable[[Rope, Tensor, list[int] | None], Tensor]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
