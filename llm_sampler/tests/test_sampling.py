"""The loop: routes that must agree, reproducibility, budgets, log-probabilities, and what it does to the device."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_sampler import pick, sample, steps, watch

PROMPTS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0], [8, 9, 10, 0, 0]])
LENGTHS = [5, 2, 3]


def rows(run) -> list[list[int]]:
    """The ids of each row, without the -1 behind its end."""
    columns = [ids.tolist() for ids in run]
    return [[i for i in row if i >= 0] for row in zip(*columns, strict=True)]


OPTIONS = [
    {"temperature": 0.0},
    {"temperature": [0.0, 1.0, 2.0], "seeds": [1, 2, 3]},
    {"top_k": 4, "top_p": 0.9, "seeds": [4, 5, 6], "end_ids": [2, 3]},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.2, "seeds": [4, 5, 6]},
    {"temperature": 3.0, "seeds": [1, 2, 3], "stop_ids": [[1], [4, 5]], "min_new_tokens": 3, "end_ids": [7]},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_cache_changes_nothing(attention, options: dict):
    stateless = rows(sample(attention, PROMPTS, 12, lengths=LENGTHS, **options))
    cached = rows(sample(attention.cached(LENGTHS), PROMPTS, 12, lengths=LENGTHS, cached=True, **options))
    assert cached == stateless


@pytest.mark.parametrize("options", OPTIONS)
def test_a_row_of_a_batch_is_the_row_alone(attention, options: dict):
    together = rows(sample(attention, PROMPTS, 12, lengths=LENGTHS, **options))
    for row, length in enumerate(LENGTHS):
        own = {
            k: v[row : row + 1] if k in ("seeds", "temperature") and v != 0 and v != 3.0 else v
            for k, v in options.items()
        }
        assert rows(sample(attention, PROMPTS[row : row + 1, :length], 12, **own)) == [together[row]]


@given(order=st.permutations([0, 1, 2]), budget=st.integers(1, 6))
@settings(max_examples=10)
def test_seeds_follow_their_rows_wherever_they_stand(order: list[int], budget: int):
    table = torch.randn(11, 11, generator=torch.Generator().manual_seed(0))

    def run(which: list[int]) -> list[list[int]]:
        seeds = [[7, 8, 9][i] for i in which]
        return rows(
            sample(lambda ids: table[ids], PROMPTS[which], budget, lengths=[LENGTHS[i] for i in which], seeds=seeds)
        )

    straight = run([0, 1, 2])
    assert run(order) == [straight[i] for i in order]
    assert run(order[:1]) == [straight[order[0]]]


def test_padding_never_reaches_the_model_nor_the_penalties(attention):
    """-100 is what some collators pad with; an embedding would fail on it."""
    odd = PROMPTS.clone()
    odd[1, 2:] = -100
    odd[2, 3:] = 5
    options = {"lengths": LENGTHS, "repetition_penalty": 5.0, "temperature": 0.0}
    assert rows(sample(attention, odd, 8, **options)) == rows(sample(attention, PROMPTS, 8, **options))


def test_a_generator_makes_runs_repeatable_and_successive_runs_different(bigram):
    def run(generator: torch.Generator) -> list[list[int]]:
        return rows(sample(bigram, PROMPTS, 20, temperature=2.0, generator=generator))

    first, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    one = run(first)
    assert run(again) == one
    assert run(first) != one


def test_rows_of_one_generator_differ_from_each_other(bigram):
    same = torch.ones(3, 2, dtype=torch.int64)
    one, two, three = rows(sample(bigram, same, 20, temperature=3.0, generator=torch.Generator().manual_seed(1)))
    assert one != two != three != one


def test_greedy_leaves_the_default_generator_alone(bigram):
    before = torch.get_rng_state()
    list(sample(bigram, PROMPTS, 3, temperature=0.0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_generator_is_that_of_manual_seed(bigram):
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append(rows(sample(bigram, PROMPTS, 9, temperature=2.0)))
    assert runs[0] == runs[1]


def test_last_position_logits_alone_are_enough(bigram):
    full = rows(sample(bigram, PROMPTS, 6, seeds=[1, 2, 3]))
    last = rows(sample(lambda ids: bigram(ids)[:, -1:], PROMPTS, 6, seeds=[1, 2, 3]))
    assert last == full


def test_the_calls_of_forward_func(bigram):
    """Stateless: everything each time. Cached: the prompt, then the new ids. The last ids are never fed."""
    shapes: list[tuple[int, ...]] = []

    def watched(ids: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        return bigram(ids)

    list(sample(watched, PROMPTS, 3))
    list(sample(watched, PROMPTS, 3, cached=True))
    assert shapes == [(3, 5), (3, 6), (3, 7), (3, 5), (3, 1), (3, 1)]


def test_budgets_per_row_and_reasons(bigram):
    last = list(steps(bigram, PROMPTS, [1, 4, 0], temperature=0.0))
    assert [len(row) for row in rows(step.ids for step in last)] == [1, 4, 0]
    assert len(last) == 4
    assert last[0].finished.tolist() == [True, False, True]
    assert last[0].reasons() == ["length", None, "length"]
    assert last[-1].reasons() == ["length"] * 3
    assert list(sample(bigram, PROMPTS, 0)) == []


def test_logprobs_are_the_models_own_and_silent_after_the_end(bigram, table):
    run = list(steps(bigram, PROMPTS, [3, 1, 3], temperature=0.3, top_k=2, seeds=[1, 2, 3], logprobs=4))
    before = PROMPTS[:, -1]
    for number, step in enumerate(run):
        expected = table[before].log_softmax(-1)
        live = step.ids >= 0
        assert live.tolist() == [True, number == 0, True]
        chosen = expected.gather(1, step.ids.clamp(min=0).unsqueeze(1)).squeeze(1)
        assert step.logprobs is not None
        assert step.top_logprobs is not None
        assert step.top_ids is not None
        torch.testing.assert_close(step.logprobs, torch.where(live, chosen, 0.0))
        torch.testing.assert_close(step.top_logprobs[live], expected.topk(4).values[live])
        assert torch.equal(step.top_ids[live], expected.topk(4).indices[live])
        assert (step.top_ids[~live] == -1).all()
        before = step.ids.clamp(min=0)
    (only,) = steps(bigram, PROMPTS, 1, logprobs=0)
    assert only.top_ids is not None
    assert only.top_ids.shape == (3, 0)
    assert next(steps(bigram, PROMPTS, 1)).logprobs is None


def test_the_allowed_hook_sees_the_generated_ids_and_rules(bigram):
    seen: list[list[list[int]]] = []

    def only_even_then_odd(generated: Tensor) -> Tensor:
        seen.append(generated.tolist())
        return (torch.arange(11) % 2 == generated.shape[1] % 2).expand(3, -1)

    out = rows(sample(bigram, PROMPTS, [4, 1, 4], temperature=5.0, seeds=[1, 2, 3], allowed=only_even_then_odd))
    assert [[i % 2 for i in row] for row in out] == [[0, 1, 0, 1], [0], [0, 1, 0, 1]]
    assert seen[0] == [[], [], []]
    assert seen[2] == [out[0][:2], [out[1][0], -1], out[2][:2]]


def test_a_mask_that_never_changes_may_be_a_tensor(bigram):
    mask = torch.zeros(11, dtype=torch.bool)
    mask[[2, 9]] = True
    assert {i for row in rows(sample(bigram, PROMPTS, 9, temperature=9.0, allowed=mask)) for i in row} == {2, 9}


def test_logit_bias_by_id_by_row_and_as_a_tensor(bigram):
    common = rows(sample(bigram, PROMPTS, 2, temperature=0.0, logit_bias={7: 100.0}))
    assert common == [[7, 7]] * 3
    own = rows(sample(bigram, PROMPTS, 1, temperature=0.0, logit_bias=[{1: 100.0}, None, {2: 100.0}]))
    assert own == [[1], [1], [2]]  # the table leads the middle row from 0 to 1
    forbid = torch.zeros(11)
    forbid[7] = -torch.inf
    assert 7 not in rows(sample(bigram, torch.tensor([[6]]), 30, logit_bias=forbid, seeds=[1]))[0]


def test_a_penalty_counts_generated_ids_and_repetition_counts_the_prompt_too(bigram):
    prompt = torch.tensor([[1, 2, 0]])  # the table's greedy way is 1, 2, 3, ...
    assert rows(sample(bigram, prompt, 2, temperature=0.0, presence_penalty=2.0)) == [[1, 2]]
    assert rows(sample(bigram, prompt, 1, temperature=0.0, repetition_penalty=100.0)) != [[1]]


def test_compiled_pick_in_the_loop(bigram):
    compiled = torch.compile(pick, fullgraph=True, backend="eager")
    options = {"seeds": [1, 2, 3], "top_k": 5, "top_p": 0.8, "end_ids": [4]}
    assert rows(sample(bigram, PROMPTS, 5, pick=compiled, **options)) == rows(sample(bigram, PROMPTS, 5, **options))


def test_gradients_stay_off(table):
    weights = table.clone().requires_grad_()
    (step,) = steps(lambda ids: weights[ids], PROMPTS, 1, logprobs=1)
    assert step.logprobs is not None
    assert not step.logprobs.requires_grad
    assert torch.is_grad_enabled()


class _Queue:
    """Stands in for an accelerator's event; values are there at once, but the loop may look only a step late."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_QUEUED", ("cpu",))
    monkeypatch.setattr(watch, "new_event", _Queue)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("options", [{}, {"end_ids": [2, 3, 8]}, {"stop_ids": [[4]], "temperature": 0.0}])
def test_reading_a_step_late_yields_the_same_steps(bigram, options: dict, monkeypatch: pytest.MonkeyPatch):
    late_run = [step.tolist() for step in sample(bigram, PROMPTS, 30, **{"seeds": [1, 2, 3], **options})]
    monkeypatch.setattr(watch, "_QUEUED", ("cuda",))
    assert late_run == [step.tolist() for step in sample(bigram, PROMPTS, 30, **{"seeds": [1, 2, 3], **options})]


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("options", "reads"), [({}, 0), ({"end_ids": [999]}, 8)])
def test_an_accelerator_is_read_late_or_not_at_all(bigram, options: dict, reads: int, monkeypatch: pytest.MonkeyPatch):
    """Reads between the second and the tenth step: none with budgets alone, one a step with end ids."""
    count = 0

    def counted(name: str):
        plain = getattr(Tensor, name)

        def method(self: Tensor, *args):
            nonlocal count
            count += 1
            return plain(self, *args)

        return method

    run = sample(bigram, PROMPTS, 20, top_k=5, top_p=0.9, repetition_penalty=1.1, seeds=[1, 2, 3], **options)
    next(run), next(run)
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "nonzero", "cpu", "numpy", "__index__"):
        monkeypatch.setattr(Tensor, name, counted(name))
    for _ in range(8):
        next(run)
    monkeypatch.undo()
    assert count == reads


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("options", "delay"), [({"end_ids": [10]}, 1), ({}, 6)])
def test_bad_logits_come_to_light_on_an_accelerator_too(table, options: dict, delay: int):
    broken = table.clone()
    broken[3] = torch.nan
    run = sample(lambda ids: broken[ids], torch.tensor([[5], [1]]), 8, temperature=0.0, **options)
    seen = [next(run).tolist() for _ in range(2 + delay)]
    assert seen[2][1] == -1  # the row that is bad shows no id
    with pytest.raises(ValueError, match="row 1 hold NaN"):
        next(run)


@pytest.mark.parametrize("top_p", [None, 0.9])
def test_equal_logits_at_the_edge_of_top_k_are_chosen_the_same_in_any_company(top_p: float | None):
    """`topk` leaves open which of equal values it takes: a neighbour with a larger top_k changed a row in bfloat16."""
    logits = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    prompt = torch.tensor([[1], [1]])
    options = {"temperature": 1.5, "top_p": top_p}
    for seed in range(40):
        alone = rows(sample(lambda ids: logits[:1, None], prompt[:1], 4, seeds=[seed], top_k=20, **options))
        for neighbour in (100, None):
            run = sample(lambda ids: logits[:, None], prompt, 4, seeds=[seed, 9], top_k=[20, neighbour], **options)
            assert rows(run)[0] == alone[0]
