"""Speculative acceptance: exactness of the distribution, unequal rows, the greedy form; and proposals by lookup."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import propose_by_lookup, speculative_accept, speculative_accept_greedy

RUNS = 60_000
VOCAB = 4


def distributions(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(seed)).mul(1.5).softmax(-1)


def first_two(target: Tensor, draft: Tensor | None, ids: Tensor, counts: Tensor | None = None) -> Tensor:
    """The first and second id of each run, where the second is drawn from the target by hand if it isn't there yet."""
    accepted, after = speculative_accept(
        ids,
        None if draft is None else draft.expand(RUNS, -1, -1),
        target.expand(RUNS, -1, -1),
        counts=counts,
        generator=torch.Generator().manual_seed(11),
    )
    rest = torch.multinomial(target[0, 1], RUNS, replacement=True, generator=torch.Generator().manual_seed(12))
    one = torch.where(accepted > 0, ids[:, 0], after)
    two = torch.where(accepted > 1, ids[:, 1], torch.where(accepted == 1, after, rest))
    return (one * VOCAB + two).bincount(minlength=VOCAB**2) / RUNS


@pytest.mark.parametrize("proposals", ["drawn", "fixed", "some"])
def test_ids_follow_the_target_distribution_exactly(proposals: str):
    """Each place's target distribution doesn't depend on the ids here, so the joint one is the product."""
    target, draft = distributions(0, 1, 3), distributions(1, 1, 2)
    make = torch.Generator().manual_seed(2)
    drawn = torch.multinomial(draft[0], RUNS, replacement=True, generator=make).T  # (RUNS, 2)
    expected = (target[0, 0].unsqueeze(1) * target[0, 1]).reshape(-1)
    if proposals == "drawn":
        observed = first_two(target, draft, drawn)
    elif proposals == "fixed":
        observed = first_two(target, None, torch.tensor([[1, 2]]).expand(RUNS, -1))
    else:
        observed = first_two(target, draft, drawn, counts=torch.arange(RUNS) % 3)
    assert ((observed - expected).abs() <= 5 * (expected * (1 - expected) / RUNS).sqrt()).all()


def test_the_rate_of_acceptance_is_the_overlap_of_the_distributions():
    """Leviathan et al.: a proposal is kept with probability sum(min(p, q))."""
    target, draft = distributions(0, 1, 2), distributions(1, 1, 1)
    ids = torch.multinomial(draft[0], RUNS, replacement=True, generator=torch.Generator().manual_seed(2)).T
    accepted, _ = speculative_accept(
        ids, draft.expand(RUNS, -1, -1), target.expand(RUNS, -1, -1), generator=torch.Generator().manual_seed(3)
    )
    rate = torch.minimum(target[0, 0], draft[0, 0]).sum()
    assert abs(accepted.double().mean() - rate) < 5 * (rate * (1 - rate) / RUNS).sqrt()


def test_equal_distributions_accept_everything():
    probs = distributions(4, 3, 5)
    ids = probs[:, :4].argmax(-1)
    accepted, after = speculative_accept(ids, probs[:, :4], probs, seeds=[1, 2, 3])
    assert accepted.tolist() == [4, 4, 4]
    assert after.shape == (3,)


def test_what_the_target_excludes_is_never_kept_nor_drawn():
    target = torch.tensor([[[0.0, 0.5, 0.5, 0.0]] * 3]).expand(500, -1, -1)
    ids = torch.tensor([[1, 0]]).expand(500, -1)
    accepted, after = speculative_accept(ids, None, target, seeds=list(range(500)))
    assert set(accepted.tolist()) == {0, 1}
    assert set(after[accepted == 0].tolist()) == {2}  # 1 was refused, so what is left is 2
    assert set(after[accepted == 1].tolist()) == {1, 2}


def test_a_row_with_its_seed_is_independent_of_its_neighbours():
    target, draft = distributions(5, 4, 4), distributions(6, 4, 3)
    ids, seeds, step = draft.argmax(-1), torch.tensor([3, 1, 4, 1]), torch.tensor([9, 8, 7, 6])
    accepted, after = speculative_accept(ids, draft, target, seeds=seeds, step=step)
    for row in range(4):
        one = slice(row, row + 1)
        alone = speculative_accept(ids[one], draft[one], target[one], seeds=seeds[one], step=step[one])
        assert (alone[0].item(), alone[1].item()) == (accepted[row].item(), after[row].item())


def test_a_count_above_the_proposals_is_all_of_them():
    """The id behind the last kept one was drawn as if a proposal had been refused there."""
    target, draft = distributions(1, 40, 3), distributions(2, 40, 2)
    ids = draft.argmax(-1)
    runs = [
        speculative_accept(ids, draft, target, counts=torch.full((40,), count), seeds=list(range(40)))
        for count in (2, 9)
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert (runs[0][0] == 2).any()
    assert torch.equal(runs[0][1], runs[1][1])


def test_greedy_keeps_the_common_beginning():
    best = torch.tensor([[1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 3, 0], [1, 2, 3, 0]])
    logits = torch.nn.functional.one_hot(best, VOCAB).float()
    ids = torch.tensor([[1, 2, 3], [1, 0, 3], [0, 2, 3], [1, 2, 3]])
    accepted, after = speculative_accept_greedy(ids, logits, counts=torch.tensor([3, 3, 3, 1]))
    assert accepted.tolist() == [3, 1, 0, 1]
    assert after.tolist() == [0, 2, 1, 2]


def test_no_proposals_at_all_is_plain_sampling():
    target = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    empty = torch.zeros(2, 0, dtype=torch.int64)
    accepted, after = speculative_accept(empty, None, target, seeds=[1, 2])
    assert (accepted.tolist(), after.tolist()) == ([0, 0], [1, 0])
    assert propose_by_lookup(torch.tensor([[5]]), 3)[1].tolist() == [0]


@pytest.mark.parametrize(
    ("draft", "target", "message"),
    [
        (None, (2, 3, 4), "target_probs must be"),
        ((2, 2, 4), (2, 4, 4), "draft_probs must be"),
        ((2, 3, 5), (2, 4, 4), "draft_probs must be"),
    ],
)
def test_wrong_shapes_are_refused(draft, target, message: str):
    ids = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        speculative_accept(ids, None if draft is None else torch.ones(draft), torch.ones(target))


def plain_lookup(ids: list[int], k: int, longest: int) -> list[int]:
    for n in range(longest, 0, -1):
        for start in range(len(ids) - n - 1, -1, -1):
            if len(ids) > n and ids[start : start + n] == ids[-n:]:
                return ids[start + n : start + n + k]
    return []


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_lookup_copies_what_followed_the_last_match(rows: list[list[int]], k: int, longest: int):
    width = max(map(len, rows))
    ids = torch.tensor([row + [9] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    proposals, counts = propose_by_lookup(ids, k, lengths=lengths, max_ngram=longest, pad_id=7)
    for row, proposed, count in zip(rows, proposals.tolist(), counts.tolist(), strict=True):
        expected = plain_lookup(row, k, longest)
        assert proposed == expected + [7] * (k - len(expected))
        assert count == len(expected)


@pytest.mark.parametrize("options", [{"k": 0}, {"min_ngram": 0}, {"min_ngram": 4}])
def test_wrong_lookup_arguments_are_refused(options: dict):
    with pytest.raises(ValueError, match="must be"):
        propose_by_lookup(torch.ones(1, 4, dtype=torch.int64), **{"k": 2, **options})
