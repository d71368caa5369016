"""Random numbers that are a function of (row seed, step, token id) and of nothing else.

Shapes: B batch, W candidates of a row.

A counter-based generator needs no state: a row gets the same numbers whatever its neighbours are, whichever
candidates were filtered away before, on every device and inside or outside of `torch.compile`. Each number is a hash
of 64 bits of seed, the step and the token id, by the 32-bit mixing function with the least measured bias in
https://github.com/skeeto/hash-prospector.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_LOW = (1 << 32) - 1
_FIRST, _SECOND = 0x243F6A88, 0x13198A2E  # starts of the two halves of a key: digits of pi
_STREAM = 0x3C6EF372
_MAX_SEED = (1 << 63) - 1


def _mix(x: Tensor) -> Tensor:
    """A permutation of 32-bit numbers in int64. No product leaves 63 bits: compiled loops rely on no overflow."""
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _LOW
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _LOW
    return x ^ (x >> 15)


def uniform(seeds: Tensor, step: Tensor, index: Tensor, *, stream: int = 0) -> Tensor:
    """Numbers in (0, 1), float32 (B, W), for seeds (B,), step (B,) and index (B, W) or (W,), all int64.

    Each use of the numbers has its own `stream`: an acceptance test must not see the noise that drew the proposal.
    """
    low, high = seeds & _LOW, (seeds >> 32) & _LOW
    first = _mix(_mix(_mix(low ^ (_FIRST + stream * _STREAM)) ^ high) ^ step)
    second = _mix(_mix(_mix(step ^ (_SECOND + stream * _STREAM)) ^ high) ^ low)
    bits = _mix(_mix((first.unsqueeze(1) + index) & _LOW) ^ second.unsqueeze(1))  # (B, W)
    # Float32 has fine steps near 0; near 1 the sum would round up to 1, whose logarithm is no number.
    return ((bits.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)


def gumbel(seeds: Tensor, step: Tensor, index: Tensor, *, stream: int = 0) -> Tensor:
    """Gumbel noise (B, W): the argmax of logits + noise is a draw from softmax(logits), without a softmax or a sync.

    The same as the exponential race argmax(probs / Exponential(1)). Arguments as in `uniform`.
    """
    return -torch.log(-torch.log1p(-uniform(seeds, step, index, stream=stream)))


def row_seeds(
    batch: int,
    device: torch.device,
    *,
    generator: torch.Generator | None = None,
    seeds: Sequence[int | None] | Tensor | None = None,
) -> Tensor:
    """One seed per row, int64 (B,): those given, and for the rest one draw per row from the generator.

    Without a generator torch's default one for the CPU is used, which `torch.manual_seed` sets. Raises ValueError for
    seeds of the wrong number or range, and for seeds together with a generator.
    """
    if seeds is None:
        where = "cpu" if generator is None else generator.device
        return torch.randint(_MAX_SEED, (batch,), generator=generator, device=where).to(device, non_blocking=True)
    given = check_seeds(batch, generator, seeds)
    if isinstance(given, Tensor):
        return given.to(device)
    drawn = torch.randint(_MAX_SEED, (batch,)).tolist() if None in given else given
    return torch.tensor([d if s is None else s for s, d in zip(given, drawn, strict=True)], device=device)


def check_seeds(
    batch: int, generator: torch.Generator | None, seeds: Sequence[int | None] | Tensor
) -> list[int | None] | Tensor:
    """The seeds as a list, or the tensor as it is; raises the ValueErrors of `row_seeds`."""
    if generator is not None:
        raise ValueError("seeds and generator both say where randomness comes from; give one of them.")
    if not isinstance(seeds, Sequence | Tensor):
        raise ValueError(f"seeds must hold one integer per row ({batch}), got {seeds!r}; give a list.")
    if isinstance(seeds, Tensor):
        if seeds.shape != (batch,) or seeds.dtype != torch.int64:
            raise ValueError(f"seeds must be int64 (B,) = ({batch},), got {seeds.dtype} {tuple(seeds.shape)}.")
        return seeds
    given = list(seeds)
    if len(given) != batch:
        raise ValueError(f"seeds must hold one integer per row ({batch}), got {len(given)}; give {batch} of them.")
    for row, seed in enumerate(given):
        if seed is not None and (type(seed) is not int or not -_MAX_SEED <= seed <= _MAX_SEED):
            raise ValueError(f"seeds must be integers of 64 bits, got {seed!r} for row {row}; give an int or None.")
    return given
