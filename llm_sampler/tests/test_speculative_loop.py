"""The speculative loop: its ids are those of plain sampling, whatever is proposed, in fewer calls of the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import Pace, Progress, SpeculativeReport, Step, propose_by_lookup, speculative_steps, steps

VOCAB = 11
PROMPTS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 10, 0, 0]])
LENGTHS = [5, 2, 3]
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": [0.0, 1.0, 2.0], "seeds": [1, 2, 3]},
    {"top_k": 4, "top_p": 0.9, "seeds": [4, 5, 6], "end_ids": [2, 3]},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2, "seeds": [4, 5, 6]},
    {"temperature": 0.0, "repetition_penalty": [3.0, 1.0, 1.5], "frequency_penalty": 1.0},
    {"temperature": 3.0, "seeds": [1, 2, 3], "stop_ids": [[1], [4, 5]], "min_new_tokens": 3, "end_ids": [7]},
    {"temperature": 3.0, "seeds": [7, 8, 9], "logit_bias": {3: 2.0}, "min_p": 0.01, "typical_p": 0.95},
]


class Model:
    """A model behind the protocol of the loop: keeps the ids of each row, as a cache would its positions."""

    def __init__(self, forward: Callable[[Tensor], Tensor], batch: int) -> None:
        self.forward, self.calls = forward, 0
        self.rows: list[list[int]] = [[] for _ in range(batch)]

    def __call__(self, ids: Tensor, starts: list[int], counts: list[int]) -> Tensor:
        self.calls += 1
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            assert start <= len(self.rows[row]), "the loop skips positions"
            self.rows[row] = self.rows[row][:start] + ids[row, :count].tolist()
        width = max(map(len, self.rows))
        whole = self.forward(torch.tensor([row + [0] * (width - len(row)) for row in self.rows]))
        places = torch.tensor(starts).unsqueeze(1) + torch.arange(ids.shape[1])
        return whole.gather(1, places.clamp(max=width - 1).unsqueeze(2).expand(-1, -1, whole.shape[2]))


def rows(run: Any) -> list[list[int]]:
    columns = [step.ids.tolist() for step in run]
    return [[i for i in row if i >= 0] for row in zip(*columns, strict=True)] if columns else []


def oracle(answers: list[list[int]], right: float = 1.0, *, lengths: list[int] = LENGTHS) -> Any:
    """Proposes the answers themselves, each id with probability `right` and else another."""
    luck = torch.Generator().manual_seed(0)

    def propose(progress: Progress) -> tuple[Tensor, list[int]]:
        wanted = max(progress.most)
        ids = torch.zeros(len(answers), wanted, dtype=torch.int64)
        counts = []
        for row, (answer, length) in enumerate(zip(answers, progress.lengths, strict=True)):
            ahead = answer[length - lengths[row] :][: progress.most[row]]
            off = (torch.rand(len(ahead), generator=luck) > right).long()
            ids[row, : len(ahead)] = (torch.tensor(ahead, dtype=torch.int64) + off) % VOCAB
            counts.append(len(ahead))
        return ids, counts

    return propose


def nothing(progress: Progress) -> tuple[Tensor, list[int]]:
    return progress.ids[:, :0], [0] * len(progress.lengths)


@pytest.mark.parametrize("right", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("options", OPTIONS)
def test_speculation_changes_nothing(attention: Any, options: dict[str, Any], right: float):
    budgets = [12, 7, 1]
    plain = rows(steps(attention, PROMPTS, budgets, lengths=LENGTHS, **options))
    model, pace = Model(attention, 3), Pace(3, measured=0)
    run = speculative_steps(model, oracle(plain, right), PROMPTS, budgets, lengths=LENGTHS, pace=pace, **options)
    assert rows(run) == plain


@given(
    proposals=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=0, max_size=4), min_size=1, max_size=9),
    budgets=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    options=st.sampled_from(OPTIONS),
)
@settings(max_examples=60, deadline=None)
def test_any_proposals_give_the_ids_of_plain_sampling(
    proposals: list[list[int]], budgets: list[int], options: dict[str, Any]
):
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    script = iter(proposals * 30)

    def propose(progress: Progress) -> tuple[Tensor, list[int]]:
        each = [next(script) for _ in progress.lengths]
        return torch.tensor([row + [0] * (4 - len(row)) for row in each]), [len(row) for row in each]

    def forward(ids: Tensor) -> Tensor:
        return table[ids] + table[ids.roll(1, 1)] * (torch.arange(ids.shape[1]) > 0).unsqueeze(1)

    plain = rows(steps(forward, PROMPTS, budgets, lengths=LENGTHS, **options))
    run = speculative_steps(
        Model(forward, 3), propose, PROMPTS, budgets, lengths=LENGTHS, pace=Pace(4, measured=0), **options
    )
    assert rows(run) == plain


def test_steps_have_the_codes_and_logprobs_of_plain_sampling(attention: Any):
    options = {"temperature": 2.0, "seeds": [1, 2, 3], "end_ids": [4], "logprobs": 2}
    plain = list(steps(attention, PROMPTS, 9, lengths=LENGTHS, **options))
    run = speculative_steps(
        Model(attention, 3),
        oracle(rows(plain), 0.6),
        PROMPTS,
        9,
        lengths=LENGTHS,
        pace=Pace(4, measured=0),
        **options,
    )
    told = [[own(step, row) for row in range(3) for step in some if step.ids[row] >= 0] for some in (plain, list(run))]
    assert [one[:2] for one in told[0]] == [one[:2] for one in told[1]]
    for expected, found in zip(*told, strict=True):
        torch.testing.assert_close(found[2], expected[2])


def own(step: Step, row: int) -> tuple[int, str | None, Tensor]:
    assert step.logprobs is not None
    assert step.top_logprobs is not None
    return int(step.ids[row]), step.reasons()[row], torch.cat([step.logprobs[row : row + 1], step.top_logprobs[row]])


def test_the_allowed_hook_rules_where_rows_have_unequal_numbers_of_ids(attention: Any):
    def rising(generated: Tensor) -> Tensor:
        """An id's parity is that of its place, and it is none of the row's last two."""
        mask = torch.arange(VOCAB) % 2 == generated.shape[1] % 2
        recent = generated[:, -2:].clamp(min=0)
        return mask.expand(3, -1).clone().scatter_(1, recent, False)

    options = {"temperature": 4.0, "seeds": [1, 2, 3], "allowed": rising}
    plain = rows(steps(attention, PROMPTS, [9, 4, 9], lengths=LENGTHS, **options))
    for right in (0.5, 1.0):
        run = speculative_steps(
            Model(attention, 3),
            oracle(plain, right),
            PROMPTS,
            [9, 4, 9],
            lengths=LENGTHS,
            pace=Pace(3, measured=0),
            **options,
        )
        assert rows(run) == plain


@pytest.mark.parametrize("options", [*OPTIONS, {"allowed": lambda ids: torch.arange(VOCAB) % 2 == ids.shape[1] % 2}])
def test_a_draft_that_is_the_model_itself_is_always_right(attention: Any, options: dict[str, Any]):
    """Also at temperature above 0, for it draws with the same noise."""
    options = {"seeds": [1, 2, 3], **options}

    def propose(progress: Progress) -> tuple[Tensor, list[int]]:
        draft, texts, found = progress.drafter(), [], []
        for row, length in enumerate(progress.lengths):
            texts.append(progress.ids[row, :length].tolist())
        for _ in range(max(progress.most)):
            width = max(map(len, texts))
            logits = attention(torch.tensor([text + [0] * (width - len(text)) for text in texts]))
            ids = draft(logits[torch.arange(3), torch.tensor([len(text) - 1 for text in texts])])
            texts = [[*text, i] for text, i in zip(texts, ids.tolist(), strict=True)]
            found.append(ids)
        return torch.stack(found, dim=1) if found else progress.ids[:, :0], progress.most

    plain = rows(steps(attention, PROMPTS, 12, lengths=LENGTHS, **options))
    report = SpeculativeReport()
    run = speculative_steps(
        Model(attention, 3),
        propose,
        PROMPTS,
        12,
        lengths=LENGTHS,
        pace=Pace(3, measured=0),
        report=report,
        **options,
    )
    assert rows(run) == plain
    if "end_ids" not in options and "stop_ids" not in options:
        assert report.acceptance_rate == 1
    assert max(report.passes) < 8


def test_the_number_of_calls_is_that_of_the_rounds(attention: Any):
    plain = rows(steps(attention, PROMPTS, 13, lengths=LENGTHS, temperature=0.0))
    for right, calls in ((1.0, 4), (0.0, 13)):  # all right: 1 + 4 + 6 or more a call; none: one id a call
        model, report = Model(attention, 3), SpeculativeReport()
        run = speculative_steps(
            model,
            oracle(plain, right),
            PROMPTS,
            13,
            lengths=LENGTHS,
            pace=Pace(3, measured=0),
            report=report,
            temperature=0.0,
        )
        assert rows(run) == plain
        assert model.calls == calls
        assert report.new_ids == [12] * 3
        assert report.passes == [calls - 1] * 3
        assert report.acceptance_rate == right


def test_a_batch_of_draws_has_the_models_distribution(table: Tensor):
    """The first three ids of 40,000 rows against their exact probabilities, with proposals of a draft unlike it."""
    vocab, count = 4, 40_000
    target, other = table[:vocab, :vocab] / 2, table[4 : 4 + vocab, 4 : 4 + vocab]

    def propose(progress: Progress) -> tuple[Tensor, list[int]]:
        draft, ids = progress.drafter(), [progress.ids.gather(1, torch.tensor(progress.lengths).unsqueeze(1) - 1)[:, 0]]
        for _ in range(max(progress.most)):
            ids.append(draft(other[ids[-1]]))
        return torch.stack(ids, dim=1)[:, 1:], progress.most

    report = SpeculativeReport()
    run = speculative_steps(
        lambda ids, starts, counts: target[ids],
        propose,
        torch.zeros(count, 1, dtype=torch.int64),
        3,
        seeds=torch.arange(count),
        pace=Pace(2, measured=0),
        report=report,
    )
    found = torch.tensor(rows(run))
    observed = torch.bincount(found @ torch.tensor([vocab**2, vocab, 1]), minlength=vocab**3) / count
    probs = target.softmax(-1)
    expected = (probs[0, :, None, None] * probs[:, :, None] * probs).reshape(-1)
    assert ((observed - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()
    assert 0.3 < (report.acceptance_rate or 0) < 0.9  # neither all nor none of it was the draft's


def test_shared_noise_agrees_as_often_as_the_theory_says():
    """Daliri, Musco and Suresh: at least (1 - d) / (1 + d) of the time; independent draws agree in sum(p q)."""
    count = 20_000
    make = torch.Generator().manual_seed(4)
    target, other = torch.randn(6, generator=make), torch.randn(6, generator=make)

    def propose(progress: Progress) -> tuple[Tensor, list[int]]:
        return progress.drafter()(other.expand(count, -1)).unsqueeze(1), progress.most

    report = SpeculativeReport()
    run = speculative_steps(
        lambda ids, starts, counts: target.expand(*ids.shape, -1),
        propose,
        torch.zeros(count, 1, dtype=torch.int64),
        3,
        seeds=torch.arange(count),
        pace=Pace(1, measured=0),
        report=report,
    )
    list(run)
    p, q = target.softmax(-1), other.softmax(-1)
    distance = float((p - q).abs().sum() / 2)
    assert (report.acceptance_rate or 0) > (1 - distance) / (1 + distance) - 0.02
    assert (report.acceptance_rate or 0) > float((p * q).sum()) + 0.1


def test_lookup_as_proposer_quotes_a_repeating_text(bigram: Any):
    def propose(progress: Progress) -> tuple[Tensor, Tensor]:
        return propose_by_lookup(progress.ids, 6, lengths=torch.tensor(progress.lengths))

    prompt = torch.tensor([[1, 2, 3]])  # the table's greedy way runs through all ids upwards, over and over
    plain = rows(steps(bigram, prompt, 40, temperature=0.0))
    model = Model(bigram, 1)
    assert rows(speculative_steps(model, propose, prompt, 40, pace=Pace(4, measured=0), temperature=0.0)) == plain
    assert model.calls < 20


@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
def test_a_stop_sequence_is_seen_across_rounds(bigram: Any, right: float):
    """What is picked behind a refused proposal is no part of the text, so it must not come between its ids."""
    prompt = torch.tensor([[1], [8]])  # the table's greedy way runs through the ids upwards
    run = speculative_steps(
        Model(bigram, 2),
        oracle([[2, 3, 4, 5, 6, 7], [9, 10, 0, 1, 2, 3]], right, lengths=[1, 1]),
        prompt,
        9,
        temperature=0.0,
        stop_ids=[[3, 4, 5], [10, 0, 1, 2]],
        pace=Pace(4, measured=0),
    )
    assert rows(run) == [[2, 3, 4, 5], [9, 10, 0, 1, 2]]


def test_no_budget_is_no_call(bigram: Any):
    model = Model(bigram, 3)
    assert rows(speculative_steps(model, nothing, PROMPTS, 0)) == []
    assert model.calls == 0


def test_bad_logits_behind_a_right_proposal_are_told(table: Tensor):
    broken = table.clone()
    broken[8] = torch.nan
    model = Model(lambda ids: broken[ids], 2)
    answers = [[6, 7, 8, 9], [2, 3, 4, 5]]
    run = speculative_steps(
        model,
        oracle(answers, lengths=[1, 1]),
        torch.tensor([[5], [1]]),
        5,
        pace=Pace(4, measured=0),
        temperature=0.0,
    )
    next(run)
    with pytest.raises(ValueError, match="row 0 hold NaN"):
        list(run)


@pytest.mark.parametrize(
    ("propose", "message"),
    [
        (lambda progress: (progress.ids[:1], [1, 1, 1]), "propose must return ids"),
        (lambda progress: (progress.ids[:, :1], [1, 2, 1]), "propose must return ids"),
        (lambda progress: (progress.ids[:, :1], [1]), "propose must return ids"),
        (lambda progress: (progress.ids[:, :2], [2, 2, 2]), "logits of all 3 positions"),
    ],
)
def test_wrong_functions_are_told(bigram: Any, propose: Any, message: str):
    run = speculative_steps(
        lambda ids, starts, counts: bigram(ids)[:, -1:], propose, PROMPTS, 9, pace=Pace(4, measured=0)
    )
    with pytest.raises(ValueError, match=message):
        list(run)


def asked(pace: Pace, rounds: int, kept: Callable[[int], int]) -> list[int]:
    """What a pace asks for, where `kept` says how many of so many proposals are right."""
    found = []
    for _ in range(rounds):
        wanted = pace.next()
        found.append(wanted)
        good = kept(wanted)
        pace.note(min(wanted, good + 1), good)
    return found


def test_a_pace_begins_plain_then_grows_to_twice_its_number():
    found = asked(Pace(4, measured=2), 30, lambda wanted: wanted)
    assert found[:3] == [0, 0, 4]
    assert found == sorted(found)
    assert found[-1] == 8


def test_a_pace_gives_up_where_nothing_is_kept_and_tries_again():
    pace = Pace(4, measured=0)
    found = asked(pace, 200, lambda wanted: 0)
    assert found[0] == 4
    assert found[:20] == sorted(found[:20], reverse=True)
    assert sum(found[50:178]) == 128 // 16  # one proposal in sixteen rounds
    assert asked(pace, 400, lambda wanted: wanted)[-1] == 8


def test_rounds_without_a_comparison_teach_a_pace_nothing():
    pace = Pace(3, measured=0)
    for _ in range(50):
        pace.note(0, 0)
    assert pace.next() == 3


@pytest.mark.parametrize("arguments", [{"tokens": 0}, {"tokens": 2.5}, {"measured": -1}])
def test_a_pace_refuses_what_is_no_number(arguments: dict[str, Any]):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        Pace(**arguments)


def test_the_speed_up_is_that_of_plain_steps_over_the_time_it_took():
    report = SpeculativeReport()
    assert (report.acceptance_rate, report.ids_per_pass, report.speed_up) == (None, None, None)
    for seconds in (9.0, 2.0, 2.0):  # the first step is slow, as first calls are
        report.add(proposed=[0, 0], accepted=[0, 0], new_ids=[1, 1], seconds=seconds)
    assert report.speed_up is None
    report.add(proposed=[4, 4], accepted=[4, 0], new_ids=[5, 1], seconds=3.0)
    report.add(proposed=[0, 4], accepted=[0, 1], new_ids=[0, 2], seconds=4.0)
    assert report.acceptance_rate == 5 / 12
    assert report.ids_per_pass == 14 / 9
    assert report.speed_up == 2.0 * 7 / 11.0
