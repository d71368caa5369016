"""A packed row of texts: what it refuses, and that its attention and angles are those of each text alone."""

from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import llm_blocks
from llm_blocks import attend, attend_alibi, attend_softcapped, plan_attention, testing

CPU = torch.device("cpu")
KINDS: dict[str, Any] = {
    "plain": attend,
    "softcapped": partial(attend_softcapped, scale=0.3, cap=2.0),
    "ALiBi": partial(attend_alibi, slopes=llm_blocks.alibi_slopes(4)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("segments", [(5, 5), (2, 7, 1, 2, 7), (9,), (1, 1)])
def test_attention_of_a_packed_row_is_that_of_each_text(
    kind: str, window: int | None, segments: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    heads = (torch.randn(1, n, sum(segments), 8, generator=generator, requires_grad=True) for n in (4, 2, 2))
    q, k, v = heads
    layers = {0: window}
    plan = plan_attention(1, sum(segments), counts=None, cache=None, device=CPU, layers=layers, segments=segments)
    packed = KINDS[kind](q, *plan.remember(0, k, v))
    alone = []
    for parts in zip(*(each.split(segments, dim=2) for each in (q, k, v)), strict=True):
        own = plan_attention(1, parts[0].size(2), counts=None, cache=None, device=CPU, layers=layers)
        alone.append(KINDS[kind](parts[0], *own.remember(0, *parts[1:])))
    wanted = torch.cat(alone, dim=2)
    assert_close(packed, wanted, rtol=1e-6, atol=1e-6)
    learned, expected = (torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (packed, wanted))
    for found, alike in zip(learned, expected, strict=True):
        assert_close(found, alike, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rope", [{}, {"kind": "dynamic", "factor": 3.0, "original_max_positions": 4}], ids=str)
def test_the_toy_keeps_the_law_with_angles_that_depend_on_the_length_too(toy: ModuleType, rope: dict[str, Any]) -> None:
    model = llm_blocks.new_model(toy.Config(rope=llm_blocks.Rope(**rope)), std=0.3)
    testing.check_packed(lambda part: model, [[1, 2, 3, 4, 5, 6, 7], [8, 9], [1] * 11])


def test_the_law_notices_texts_that_see_each_other(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(toy.Model):
        def hidden(self, x, *, segments=None):
            return super().hidden(x)

    monkeypatch.setattr(toy, "Model", Leaky)
    model = llm_blocks.new_model(toy.Config(), std=0.3)
    with pytest.raises(AssertionError, match="packed texts of"):
        testing.check_packed(lambda part: model, [[1, 2, 3], [4, 5]])


def test_hidden_is_what_the_end_is_given(model: Any) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert torch.equal(model.end(model.hidden(ids, counts=[3, 2])), model(ids, counts=[3, 2]))


@pytest.mark.parametrize(
    ("shape", "options", "rule"),
    [
        ((2, 4), {"segments": [2, 2]}, "those of one row, and the input has 2"),
        ((1, 4), {"segments": [2, 3]}, "sum to the row's 4 positions, got \\[2, 3\\]"),
        ((1, 4), {"segments": [4, 0]}, "lengths of at least 1"),
        ((1, 4), {"segments": []}, "lengths of at least 1"),
        ((1, 4), {"segments": [2, 2], "counts": [4]}, "no padding"),
    ],
)
def test_segments_that_do_not_fit_are_refused(
    model: Any, shape: tuple[int, int], options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        model.hidden(torch.ones(shape, dtype=torch.int64), **options)


def test_a_packed_row_goes_into_no_cache(model: Any) -> None:
    with pytest.raises(ValueError, match="no cache"):
        model.enter(torch.ones((1, 4), dtype=torch.int64), model.new_cache(1, 4), segments=[2, 2])
