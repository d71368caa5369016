"""One step: the draw, its distribution, greedy rows, bad rows and compilation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llm_sampler import SamplingOptions, filters, pick, token_logprobs
from llm_sampler.noise import uniform

DRAWS = 20_000


def settings(batch: int, vocab: int, **options):
    return SamplingOptions(**options).settings(batch, vocab, torch.device("cpu"))


def draw(logits: Tensor, **options) -> Tensor:
    """DRAWS independent ids from one row of logits."""
    rows = logits.expand(DRAWS, -1)
    chosen = settings(DRAWS, rows.shape[1], generator=torch.Generator().manual_seed(5), **options)
    return pick(rows, chosen, step=torch.zeros(DRAWS, dtype=torch.int64))[0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.7},
        {"min_p": 0.3},
        {"typical_p": 0.8},
        {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.1},
    ],
)
def test_ids_follow_the_filtered_distribution(options: dict):
    logits = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0, -3.0])
    expected = logits.unsqueeze(0)
    for name, value in options.items():
        expected = getattr(filters, name)(expected, value)
    expected = expected.softmax(-1)[0]
    observed = draw(logits, **options).bincount(minlength=6) / DRAWS
    # Five standard deviations of a frequency.
    assert ((observed - expected).abs() <= 5 * (expected * (1 - expected) / DRAWS).sqrt()).all()


class Products(TorchDispatchMode):
    """Takes down the largest product of integers, computed without a limit of bits."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.mul.Tensor and args[0].dtype == torch.int64:
            self.largest = max(self.largest, *(abs(x) * args[1] for x in args[0].reshape(-1).tolist()))
        return func(*args, **(kwargs or {}))


def test_no_product_of_the_noise_overflows():
    """A signed overflow is undefined in compiled code: a mixing of 64 bits made torch.compile's loops run wild."""
    extremes = torch.tensor([0, 2**31, 2**32 - 1])
    with Products() as products:
        uniform(torch.tensor([-(2**63) + 1, 2**63 - 1, 0]), extremes, extremes, stream=2)
    assert 2**60 < products.largest < 2**63


def test_steps_and_seeds_give_independent_draws():
    """A weak mixing of seed and step would tie neighbouring seeds, or one step to the next, together."""
    logits = torch.zeros(DRAWS, 4)
    chosen = settings(DRAWS, 4, seeds=list(range(DRAWS)))
    first, second = (pick(logits, chosen, step=torch.full((DRAWS,), n))[0] for n in (0, 1))
    for one, other in ((first, second), (first[1:], first[:-1])):
        joint = (one * 4 + other).bincount(minlength=16) / len(one)
        assert (joint - 1 / 16).abs().max() < 5 * (1 / 16 / DRAWS) ** 0.5


@given(st.lists(st.integers(1, 6) | st.none(), min_size=3, max_size=3), st.integers(0, 1000))
def test_the_short_way_over_top_k_candidates_draws_the_same_ids(ks: list[int | None], seed: int):
    """The noise belongs to a token id, so narrowing to candidates first must not change what is drawn."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed))
    step = torch.zeros(3, dtype=torch.int64)
    together, _ = pick(logits, settings(3, 7, top_k=ks, top_p=0.9, seeds=[1, 2, 3]), step=step)
    for row, k in enumerate(ks):
        alone = settings(1, 7, top_k=k, top_p=0.9, seeds=[row + 1])
        assert pick(logits[row : row + 1], alone, step=step[:1])[0] == together[row]


def test_temperature_zero_is_greedy_whatever_the_other_filters_say():
    """The old samplers drew at temperature 1 when asked for 0."""
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    step = torch.zeros(50, dtype=torch.int64)
    mixed = settings(50, 9, temperature=[0.0, 5.0] * 25, top_p=0.9, typical_p=0.2, min_p=0.01)
    greedy = settings(50, 9, temperature=0.0, top_k=3)
    assert torch.equal(pick(logits, mixed, step=step)[0][::2], logits.argmax(-1)[::2])
    assert torch.equal(pick(logits, greedy, step=step)[0], logits.argmax(-1))


def test_equal_logits_are_broken_alike_in_greedy_and_mixed_batches():
    logits = torch.zeros(2, 9)
    step = torch.zeros(2, dtype=torch.int64)
    alone, _ = pick(logits, settings(2, 9, temperature=0.0), step=step)
    mixed, _ = pick(logits, settings(2, 9, temperature=[0.0, 1.0], top_k=4), step=step)
    assert alone[0] == mixed[0] == 0


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"top_k": 2, "top_p": 0.5, "typical_p": 0.5}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_bad_rows_are_found_and_their_neighbours_are_not(options: dict, value: float):
    logits = torch.zeros(4, 5)
    logits[1, 3] = value
    logits[2] = -torch.inf
    logits[3, 0] = -torch.inf
    _, bad = pick(logits, settings(4, 5, **options), step=torch.zeros(4, dtype=torch.int64))
    assert bad.tolist() == [False, True, True, False]


def test_nan_behind_the_mask_still_makes_a_row_bad():
    logits = torch.tensor([[0.0, torch.nan]])
    mask = torch.tensor([True, False])
    _, bad = pick(logits, settings(1, 2), step=torch.zeros(1, dtype=torch.int64), allowed=mask)
    assert bad.tolist() == [True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_with_extreme_temperature(dtype: torch.dtype):
    logits = torch.tensor([[60000.0, -60000.0, 0.0]], dtype=dtype)
    ids, bad = pick(logits, settings(1, 3, temperature=1e-4), step=torch.zeros(1, dtype=torch.int64))
    assert (ids.item(), bad.item()) == (0, False)


def test_torch_compile_takes_the_whole_step():
    logits = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    chosen = SamplingOptions(
        temperature=[0.0, 0.7, 1.3],
        top_k=[5, 0, 7],
        top_p=0.9,
        min_p=0.02,
        typical_p=0.95,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={3: -1.0},
        min_new_tokens=2,
        seeds=[1, 2, 3],
    ).settings(3, 12, torch.device("cpu"), ends=torch.tensor([[1, -2]] * 3))
    arguments = {
        "step": torch.tensor([0, 1, 2]),
        "seen": torch.rand(3, 12) > 0.5,
        "counts": torch.randint(3, (3, 12)).float(),
        "allowed": torch.rand(3, 12) > 0.2,
    }
    compiled = torch.compile(pick, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(logits, chosen, **arguments), pick(logits, chosen, **arguments), strict=True):
        assert torch.equal(got, expected)


def test_torch_compile_takes_the_greedy_step():
    logits = torch.randn(3, 12)
    compiled = torch.compile(pick, fullgraph=True, backend="eager")
    ids, bad = compiled(logits, settings(3, 12, temperature=0.0), step=torch.zeros(3, dtype=torch.int64))
    assert torch.equal(ids, logits.argmax(-1))
    assert not bad.any()


def test_token_logprobs_are_those_of_the_model():
    logits = torch.randn(3, 6)
    expected = logits.log_softmax(-1)
    chosen, best_ids, best = token_logprobs(logits, torch.tensor([5, 0, 2]), 2)
    torch.testing.assert_close(chosen, expected[torch.arange(3), torch.tensor([5, 0, 2])])
    torch.testing.assert_close(best, expected.topk(2).values)
    assert torch.equal(best_ids, expected.topk(2).indices)
