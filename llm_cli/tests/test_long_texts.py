"""Texts that grow past the trained length of a model with LongRoPE, which has other angles for them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import llm_cli.reading
from llm_blocks import load, testing
from llm_cli import feeding
from llm_cli.generation import Generation
from llm_cli.options import Options
from llm_cli.reading import PromptCache

TRAINED = 24
FAMILY = testing.Family(
    model_type="phi3",
    models="",
    features="",
    base={
        "vocab_size": 400,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 192,
        "original_max_position_embeddings": TRAINED,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.3, 2.0],
            "long_factor": [1.2, 2.5, 7.0, 15.0],
        },
        "tie_word_embeddings": False,
    },
    cases={"no window": {"sliding_window": None}, "window": {"sliding_window": 10}},
    refused=[],
)


@pytest.fixture(scope="module", params=FAMILY.cases)
def case(request: Any, tmp_path_factory: Any) -> testing.Case:
    return FAMILY.make(request.param, tmp_path_factory.mktemp("long"))


def answers(case: testing.Case, *prompts: list[int], cache: PromptCache | None = None, **options: Any) -> list[Any]:
    settings = {"max_new_tokens": 30, "temperature": 0, "ignore_eos": True} | options
    run = Generation(case.model, list(prompts), Options(**settings), tokenizer=None, limit=192, cache=cache)
    return [list(completion.token_ids) for completion in run.finish()]


def prompt(case: testing.Case, length: int) -> list[int]:
    return case.ids(1, length)[0].tolist()


@pytest.mark.parametrize("length", [1, 9, TRAINED - 1, TRAINED, TRAINED + 1, 60])
def test_an_answer_is_that_of_transformers(case: testing.Case, length: int) -> None:
    ids = prompt(case, length)
    options = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs = case.reference.generate(torch.tensor([ids]), attention_mask=torch.ones(1, length), **options)
    assert answers(case, ids) == [theirs[0, length:].tolist()]


@pytest.mark.parametrize("chunk", [5, 1024])
def test_an_answer_depends_on_its_own_text_alone(case: testing.Case, chunk: int, monkeypatch: Any) -> None:
    """Not on its budget, nor on the others of the batch, which cross the trained length at other times or never."""
    monkeypatch.setattr(llm_cli.reading, "CHUNK", chunk)
    prompts = [prompt(case, length) for length in (3, 9, TRAINED, 60, 20)]
    together = answers(case, *prompts)
    for ids, found in zip(prompts, together, strict=True):
        assert answers(case, ids) == [found]
        assert answers(case, ids, max_new_tokens=7) == [found[:7]]
        assert answers(case, ids, max_new_tokens=100)[0][:30] == found


def test_a_prompt_is_read_in_chunks(case: testing.Case, monkeypatch: Any) -> None:
    """The test above patched defaults that nothing read, so that it tested one size alone."""
    monkeypatch.setattr(llm_cli.reading, "CHUNK", 5)
    widths: list[int] = []
    hook = case.model.register_forward_pre_hook(lambda _, arguments: widths.append(arguments[0].shape[1]))
    answers(case, prompt(case, 12), max_new_tokens=2)
    hook.remove()
    assert widths == [5, 5, 2, 1]


def test_samples_cross_together(case: testing.Case) -> None:
    ids = prompt(case, 15)
    options = {"temperature": 1.0, "num_samples": 3}
    assert answers(case, ids, seed=5, **options) == [
        answers(case, ids, temperature=1.0, seed=5 + i)[0] for i in range(3)
    ]


def test_a_row_that_has_ended_keeps_no_other_from_going_on(case: testing.Case, monkeypatch: Any) -> None:
    """Every later step of the batch went through the code that reads rows again, though none was to be."""
    first, second = prompt(case, TRAINED - 2), prompt(case, 3)
    stop = answers(case, first)[0][1]
    calls: list[int] = []
    monkeypatch.setattr(feeding, "prefill", lambda *given: calls.append(1) or llm_cli.reading.prefill(*given))
    found = answers(case, first, second, stop=stop, max_new_tokens=15)
    assert len(found[0]) <= 2
    assert len(calls) == 1


def test_a_row_that_has_ended_waits_at_the_trained_length(case: testing.Case) -> None:
    first, second = prompt(case, 12), prompt(case, 3)
    whole = answers(case, first, second)
    stop = whole[0][5]
    cut = answers(case, first, second, stop=stop)
    assert cut == [[*found[: found.index(stop)], stop] if stop in found else found for found in whole]


def test_a_conversation_is_read_again_where_it_crosses(case: testing.Case) -> None:
    """Going past the trained length in the middle of an answer, in a prompt, and coming back from there."""
    cache, text = PromptCache(), prompt(case, 10)
    for more in (9, 20, 3, 40):
        new = answers(case, text, cache=cache, max_new_tokens=more)
        assert new == answers(case, text, max_new_tokens=more)
        text = text + new[0] + prompt(case, 3)
    for length in (15, 30, 20):
        assert answers(case, text[:length], cache=cache) == answers(case, text[:length])


def test_a_cache_of_the_models_own_refuses_to_mix(case: testing.Case) -> None:
    model, ids = load(Path(case.folder)), case.ids(1, TRAINED + 1)
    cache = model.new_cache(1, 100)
    cache.aims[0] = TRAINED
    with torch.inference_mode():
        model(ids[:, :TRAINED], cache)
        with pytest.raises(ValueError, match="its length to 0, and read it again"):
            model(ids[:, TRAINED:], cache)
