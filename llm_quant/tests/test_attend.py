"""Attention over a cache, on every level that the processor has, against its definition in float64."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from llm_quant import steps

DTYPES = [torch.float32, torch.bfloat16]


def heads_last(batch: int, heads: int, time: int, size: int, dtype: torch.dtype) -> Tensor:
    """Random heads (B, H, T, D) as they come out of a product, beside others."""
    return torch.randn(batch, time, heads + 2, size + 3).to(dtype)[:, :, 1:-1, :size].transpose(1, 2)


def filled(
    sizes: tuple[int, int, int, int], slots: int, ends: list[int], dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """A cache into which all positions were stored, one by one, and the keys and values of all positions."""
    batch, kv_heads, size, value = sizes
    most = max(ends)
    k, v = heads_last(batch, kv_heads, most, size, dtype), heads_last(batch, kv_heads, most, value, dtype)
    cache = (
        torch.zeros(batch, kv_heads, slots, size, dtype=dtype),
        torch.zeros(batch, kv_heads, slots, value, dtype=dtype),
    )
    for p in range(most):
        now = [min(p + 1, end) for end in ends]
        one = (each[:, :, p : p + 1].clone(memory_format=torch.contiguous_format) for each in (k, v))
        assert steps.store(*one, cache, [p] * batch, now)
    return cache, k, v


def defined(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: list[int],
    *,
    scale: float,
    window: int | None,
    cap: float,
    slopes: Tensor | None,
) -> Tensor:
    """The definition, query by query."""
    batch, heads, time, _ = q.shape
    y = torch.zeros(batch, heads, time, v.size(-1), dtype=torch.float64)
    for b, h, t in product(range(batch), range(heads), range(time)):
        p, kv = starts[b] + t, h * k.size(1) // heads
        first = 0 if window is None else max(0, p - window + 1)
        scores = (k[b, kv, first : p + 1].double() @ q[b, h, t].double()) * scale
        if cap:
            scores = cap * torch.tanh(scores / cap)
        if slopes is not None:
            scores = scores - slopes[h].double() * (p - torch.arange(first, p + 1))
        y[b, h, t] = scores.softmax(0) @ v[b, kv, first : p + 1].double()
    return y


CASES = {
    "one token": ((1, 4, 2, 1, 64, 64), [40], 64, {}),
    "odd sizes": ((2, 6, 3, 2, 20, 12), [17, 5], 32, {}),
    "a head of 80": ((1, 2, 2, 3, 80, 80), [33], 48, {}),
    "many queries": ((1, 16, 1, 5, 32, 32), [100], 128, {}),
    "more queries than go together": ((1, 7, 1, 9, 40, 72), [300], 320, {}),
    "several chunks": ((2, 4, 2, 2, 16, 16), [1400, 513], 1500, {}),
    "a window": ((2, 4, 4, 2, 16, 16), [90, 60], 200, {"window": 33}),
    "a window that wrapped around": ((2, 4, 2, 2, 16, 16), [90, 61], 40, {"window": 33}),
    "a cap": ((1, 4, 2, 2, 16, 16), [50], 64, {"cap": 3.0}),
    "distances that wrapped around": (
        (1, 2, 1, 3, 32, 32),
        [700],
        600,
        {"slopes": torch.tensor([0.5, 0.01]), "window": 590},
    ),
    "distances": ((2, 4, 2, 2, 16, 16), [50, 20], 64, {"slopes": torch.tensor([0.5, 0.25, 0.1, 0.01])}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_attention_is_what_its_definition_says(level: str, case: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    (batch, heads, kv_heads, time, size, value), ends, slots, more = CASES[case]
    options = {"window": None, "cap": 0.0, "slopes": None, "scale": size**-0.5} | more
    cache, k, v = filled((batch, kv_heads, size, value), slots, ends, dtype)
    q, starts = heads_last(batch, heads, time, size, dtype) * 3, [end - time for end in ends]
    found = steps.attend(q, cache, starts, ends, **options)
    assert found is not None
    bound = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-5}
    assert_close(found.double(), defined(q, k, v, starts, **options), **bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slots", [1, 10, 700])
def test_without_positions_every_slot_is_seen(level: str, dtype: torch.dtype, slots: int) -> None:
    """By more queries than there are slots too, and wherever a program's own positions are."""
    torch.manual_seed(3)
    k, v = (torch.randn(2, 2, slots, size).to(dtype) for size in (16, 12))
    q = heads_last(2, 4, 12, 16, dtype)
    found = steps.attend(q, (k, v), None, None, scale=0.25)
    assert found is not None
    scores = q.double().unflatten(1, (2, 2)) @ k.double()[:, :, None].mT * 0.25
    wanted = (scores.softmax(-1) @ v.double()[:, :, None]).flatten(1, 2)
    bound = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-5}
    assert_close(found.double(), wanted, **bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_is_the_same_alone_and_among_others(level: str, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    ends = [700, 530, 9]
    cache, _, _ = filled((3, 2, 16, 16), 1024, ends, dtype)
    q, starts = heads_last(3, 4, 5, 16, dtype), [end - 5 for end in ends]
    together = steps.attend(q, cache, starts, ends, scale=0.25)
    assert together is not None
    for b, t in product(range(3), range(5)):
        row = tuple(each[b : b + 1] for each in cache)
        alone = steps.attend(q[b : b + 1, :, t : t + 1], row, [starts[b] + t], [starts[b] + t + 1], scale=0.25)
        assert alone is not None
        assert torch.equal(alone[0, :, 0], together[b, :, t])


@pytest.mark.parametrize("slots", [150, 1100])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [20, 64, 80, 128])
def test_attention_over_a_cache_of_int8(level: str, size: int, dtype: torch.dtype, slots: int) -> None:
    torch.manual_seed(4)
    cache = tuple(torch.randint(-127, 128, (2, 2, slots, size), dtype=torch.int8) for _ in range(2))
    scales = tuple(torch.rand(2, 2, slots) / 50 for _ in range(2))
    plain = [each.double() * scale[..., None] for each, scale in zip(cache, scales, strict=True)]
    q, ends = heads_last(2, 14, 3, size, dtype), [slots, slots - 37]
    starts, options = [end - 3 for end in ends], {"window": None, "cap": 0.0, "slopes": None, "scale": size**-0.5}
    found = steps.attend(q, (*cache, *scales), starts, ends, **options)
    assert found is not None
    bound = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2**-8, "atol": 1e-4}
    assert_close(found.double(), defined(q, *plain, starts, **options), **bound)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8])
def test_the_number_of_threads_changes_nothing(level: str, kind: torch.dtype) -> None:
    torch.manual_seed(5)
    q, ends = heads_last(2, 8, 2, 64, torch.float32 if kind == torch.float32 else torch.bfloat16), [9000, 3000]
    cache = tuple((30 * torch.randn(2, 2, 9000, 64)).clamp(-127, 127).to(kind) for _ in range(2))
    cache += tuple(torch.rand(2, 2, 9000) / 30 for _ in range(2)) if kind == torch.int8 else ()
    found, threads = [], torch.get_num_threads()
    try:
        for many in (1, 2, 3):
            torch.set_num_threads(many)
            found.append(steps.attend(q, cache, [8998, 2998], ends, scale=0.05))
    finally:
        torch.set_num_threads(threads)
    assert found[0] is not None
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])  # type: ignore[arg-type]
    assert torch.equal(found[0], found[2])  # type: ignore[arg-type]


def test_what_lies_beyond_a_row_is_never_seen(level: str) -> None:
    cache, _, _ = filled((1, 2, 16, 16), 64, [30], torch.float32)
    q = heads_last(1, 4, 1, 16, torch.float32)
    before = steps.attend(q, cache, [29], [30], scale=1.0)
    for each in cache:
        each[:, :, 30:] = 1e30
    after = steps.attend(q, cache, [29], [30], scale=1.0)
    assert before is not None
    assert torch.equal(before, after)  # type: ignore[arg-type]


def test_padding_and_empty_rows_give_numbers(level: str) -> None:
    cache = (torch.zeros(2, 1, 8, 16), torch.zeros(2, 1, 8, 16))
    k = heads_last(2, 1, 3, 16, torch.float32)
    assert steps.store(k, k, cache, [0, 0], [2, 0])
    assert torch.equal(cache[0][0, :, :2], k[0, :, :2])
    assert not cache[0][0, :, 2:].any()
    assert not cache[0][1].any()
    found = steps.attend(heads_last(2, 1, 3, 16, torch.float32), cache, [0, 0], [2, 0], scale=1.0)
    assert found is not None
    assert found.isfinite().all()


def test_numbers_that_are_none_show(level: str) -> None:
    cache, _, _ = filled((1, 1, 16, 16), 64, [20], torch.float32)
    cache[0][0, 0, 3, 5] = float("nan")
    found = steps.attend(heads_last(1, 1, 1, 16, torch.float32), cache, [19], [20], scale=1.0)
    assert found is not None
    assert found.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turning", [16, 64])
def test_rotation(level: str, turning: int, dtype: torch.dtype) -> None:
    x, angles = heads_last(2, 3, 4, 64, dtype), torch.randn(2, 1, 4, turning // 2)
    cos = torch.cat((angles.cos(), angles.cos()), -1).to(dtype)
    sin = torch.cat((-angles.sin(), angles.sin()), -1).to(dtype)
    for first in (cos[:1], cos):
        found = steps.rotate(x, first, sin[: first.size(0)])
        assert found is not None
        part = x[..., :turning]
        wanted = torch.addcmul(part * first, part.roll(turning // 2, -1), sin[: first.size(0)])  # its own bits
        if level == "portable":  # no sums of products that are rounded once
            assert_close(found[..., :turning], wanted)
        else:
            assert torch.equal(found[..., :turning], wanted)
        assert torch.equal(found[..., turning:], x[..., turning:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_of_int8_is_near_what_was_stored(level: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    k, v = heads_last(2, 2, 3, 32, dtype), heads_last(2, 2, 3, 16, dtype)
    cache = (
        torch.zeros(2, 2, 8, 32, dtype=torch.int8), torch.zeros(2, 2, 8, 16, dtype=torch.int8),
        torch.zeros(2, 2, 8), torch.zeros(2, 2, 8),
    )  # fmt: skip
    assert steps.store(k, v, cache, [4, 2], [7, 5])
    for which, given in enumerate((k, v)):
        largest = given.float().abs().amax(-1)
        for b, start in enumerate((4, 2)):
            kept, scale = cache[which][b, :, start : start + 3], cache[2 + which][b, :, start : start + 3]
            assert_close(scale, largest[b] / 127)
            back = kept.float() * scale[..., None]
            assert ((back - given[b].float()).abs() <= 0.5001 * scale[..., None]).all()
    plain = tuple(kept.float() * scale[..., None] for kept, scale in zip(cache[:2], cache[2:], strict=True))
    q = heads_last(2, 4, 1, 32, torch.float32)
    found = steps.attend(q.to(dtype), cache, [6, 4], [7, 5], scale=0.3)
    wanted = steps.attend(q.to(dtype).float(), plain, [6, 4], [7, 5], scale=0.3)
    assert found is not None
    assert wanted is not None
    assert_close(found.float(), wanted, rtol=2**-7, atol=1e-4)
