"""Bad arguments are refused by the call itself, in one sentence that names the option and the value."""

import math

import pytest
import torch

from llm_sampler import sample, steps

PROMPT = torch.tensor([[1, 2], [3, 4]])

WRONG = [
    ({"temperature": -0.1}, "temperature must be a finite number, 0 .greedy. or above, got -0.1"),
    ({"temperature": math.nan}, "temperature .* nan"),
    ({"temperature": math.inf}, "temperature .* inf"),
    ({"temperature": "hot"}, "temperature .* 'hot'"),
    ({"temperature": True}, "temperature .* True"),
    ({"temperature": [1.0, -2.0]}, "temperature .* -2.0 for row 1"),
    ({"temperature": [1.0, 1.0, 1.0]}, r"temperature must hold one value per row \(2\), got 3"),
    ({"top_k": -2}, "top_k must be an integer, at least 1"),
    ({"top_k": 2.5}, "top_k .* 2.5"),
    ({"top_k": True}, "top_k .* True"),
    ({"top_p": 0.0}, "top_p must be .* above 0 and at most 1"),
    ({"top_p": 1.01}, "top_p .* 1.01"),
    ({"min_p": -0.1}, "min_p .* -0.1"),
    ({"min_p": 1.1}, "min_p .* 1.1"),
    ({"typical_p": 0}, "typical_p .* got 0"),
    ({"repetition_penalty": 0.0}, "repetition_penalty .* above 0"),
    ({"presence_penalty": 2.1}, "presence_penalty .* from -2 to 2"),
    ({"frequency_penalty": torch.tensor([0.0, -3.0])}, "frequency_penalty .* -3.0 for row 1"),
    ({"min_new_tokens": -1}, "min_new_tokens .* -1"),
    ({"max_new_tokens": -1}, "max_new_tokens .* -1"),
    ({"max_new_tokens": 2.0}, "max_new_tokens .* 2.0"),
    ({"max_new_tokens": [1, 2, 3]}, "max_new_tokens must hold one value per row"),
    ({"logprobs": -1}, "logprobs .* -1"),
    ({"seeds": [1]}, r"seeds must hold one integer per row \(2\), got 1"),
    ({"seeds": [1, 2.5]}, "seeds .* 2.5 for row 1"),
    ({"seeds": 7}, "seeds must hold one integer per row"),
    ({"seeds": [1, 2**64]}, "seeds must be integers of 64 bits"),
    ({"seeds": [1, 2], "generator": torch.Generator()}, "give one of them"),
    ({"lengths": [1]}, "lengths must hold one integer per row"),
    ({"lengths": [1, 3]}, "lengths must be integers from 1 to 2 .* 3 for row 1"),
    ({"lengths": [0, 1]}, "lengths .* 0 for row 0"),
    ({"pad_id": -1}, "pad_id .* -1"),
    ({"logit_bias": [{}]}, "logit_bias must hold one value per row"),
]


def sentence(error: pytest.ExceptionInfo[ValueError]) -> bool:
    text = str(error.value)
    return "\n" not in text and text.endswith(".") and len(text) < 250


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_refused_before_the_model_is_called(options: dict, message: str):
    with pytest.raises(ValueError, match=message) as error:
        sample(pytest.fail, PROMPT, **{"max_new_tokens": 3, **options})
    assert sentence(error)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([[1, 2]], "input_ids must be a tensor of integers"),
        (torch.tensor([1, 2]), "input_ids must be .*torch.int64 .2,."),
        (torch.tensor([[1.0]]), "input_ids .*float32"),
        (torch.zeros(0, 3, dtype=torch.int64), "at least one row"),
        (torch.zeros(3, 0, dtype=torch.int64), "at least one row"),
        (torch.tensor([[1, -1]]), "must not be negative"),
    ],
)
def test_a_wrong_prompt_is_refused(prompt, message: str):
    with pytest.raises(ValueError, match=message) as error:
        steps(pytest.fail, prompt, 3)
    assert sentence(error)


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="top_kk"):
        sample(pytest.fail, PROMPT, 3, top_kk=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("result", "options", "message"),
    [
        ("text", {}, "forward_func must return a tensor of logits"),
        (torch.zeros(2, 5), {}, "forward_func must return logits .B, T, V."),
        (torch.zeros(1, 2, 5), {}, "forward_func must return logits"),
        (torch.zeros(2, 3, 5), {}, "forward_func must return logits"),
        (torch.zeros(2, 2, 5, dtype=torch.int64), {}, "floating-point"),
        (torch.zeros(2, 2, 5), {"logit_bias": {5: 1.0}}, "logit_bias must name ids from 0 to 4, got 5"),
        (torch.zeros(2, 2, 5), {"logit_bias": {1: math.nan}}, "logit_bias must hold finite"),
        (torch.zeros(2, 2, 5), {"logit_bias": torch.zeros(4)}, "logit_bias must be"),
        (torch.zeros(2, 2, 5), {"allowed": torch.zeros(5)}, "allowed must give a bool mask"),
        (torch.zeros(2, 2, 5), {"allowed": lambda ids: [True]}, "allowed must give a bool mask"),
        (torch.zeros(2, 2, 5), {"logprobs": 6}, "logprobs must be at most the 5 tokens"),
        (torch.zeros(2, 2, 4), {"repetition_penalty": 2.0}, "input_ids must be below the 4 tokens"),
    ],
)
def test_what_only_the_logits_can_show_is_refused_with_the_first_step(result, options: dict, message: str):
    run = sample(lambda ids: result, PROMPT, 3, **options)
    with pytest.raises(ValueError, match=message) as error:
        next(run)
    assert sentence(error)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_with_bad_logits_is_named(temperature: float, value: float):
    logits = torch.zeros(2, 1, 5)
    logits[1, 0, 2] = value
    with pytest.raises(ValueError, match="row 1 hold NaN or inf") as error:
        next(sample(lambda ids: logits, PROMPT, 3, temperature=temperature))
    assert sentence(error)


def test_rows_without_any_allowed_token_are_named():
    mask = torch.tensor([[True] * 5, [False] * 5])
    with pytest.raises(ValueError, match=r"row 1 .*leave no token"):
        next(sample(lambda ids: torch.zeros(2, 1, 5), PROMPT, 3, allowed=mask))


def test_bad_logits_of_a_row_that_has_ended_do_no_harm():
    """A model may give anything for a row that is only padding."""
    calls = iter([torch.zeros(2, 1, 5), torch.tensor([[[math.nan] * 5], [[0.0] * 5]])])
    run = sample(lambda ids: next(calls), PROMPT, [1, 2], temperature=0.0)
    assert [ids.tolist() for ids in run] == [[0, 0], [-1, 0]]
