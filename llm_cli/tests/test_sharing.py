"""Lists of prompts that begin alike."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm_cli import LLM, sharing
from llm_cli.generation import Generation
from llm_cli.options import Options


def ids_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(97, (length,), generator=generator).tolist()


BASE = ids_of(700)
PROMPTS = [
    [*BASE[:300], 1, 2],
    BASE[:20],
    [*BASE[:300], 1, 3, *ids_of(90, 1)],
    [5, *BASE[:250]],
    [*BASE[:600], 7],
    BASE[:256],
    BASE[:256],
    [*BASE[:600], 7, 8],
    BASE[:129],
]


def answers(model: Any, prompts: list[list[int]], **more: Any) -> tuple[list[Any], list[int]]:
    settings = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True, "logprobs": 5} | more
    done = Generation(model, prompts, Options(**settings), tokenizer=None, limit=2048).finish()
    return [(one.token_ids, one.logprobs) for one in done], [one.cached_tokens for one in done]


def read_without_copies(model: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, **more: Any) -> Any:
    """The same pieces, each row of which is read again."""
    with monkeypatch.context() as patch:
        patch.setattr("llm_blocks.KVCache.holds", lambda *_, **__: False)
        patch.setattr("llm_blocks.KVCache.ends", unchecked)
        found, known = answers(model, prompts, **more)
    assert not any(known)
    return found


def unchecked(cache: Any, counts: list[int]) -> list[int]:
    return [start + count for start, count in zip(cache.lengths, counts, strict=True)]


@pytest.fixture(params=["plain", "window", "longrope", "dynamic"])
def model(request: Any, small_model: Callable[[str], Any]) -> Any:
    return small_model(request.param)


@pytest.mark.parametrize("more", [{}, {"num_samples": 2, "temperature": 1.0, "seed": 3}, {"speculative": "ngram"}])
def test_sharing_changes_no_bit(model: Any, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found, known = answers(model, PROMPTS, **more)
    assert sum(known) >= 256
    assert found == read_without_copies(model, PROMPTS, monkeypatch, **more)


def test_what_is_shared_is_read_once(small_model: Callable[[str], Any]) -> None:
    model = small_model("plain")
    sizes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    _, known = answers(model, PROMPTS, max_new_tokens=1)
    hook.remove()
    assert sizes == [(1, 64), (1, 64), (1, 128), (1, 256), (9, 251)]
    assert known == [128, 0, 256, 0, 256, 128, 128, 512, 0]


def test_each_text_is_that_of_the_prompt_alone(model: Any) -> None:
    found, _ = answers(model, PROMPTS)
    for prompt, (ids, _) in zip(PROMPTS, found, strict=True):
        assert answers(model, [prompt])[0][0][0] == ids


def test_prompts_with_other_angles_share_nothing(small_model: Callable[[str], Any]) -> None:
    for kind, expected in {"longrope": [0, 128, 0, 256], "dynamic": [0, 128, 0, 0]}.items():
        model = small_model(kind)
        assert answers(model, [BASE[:200], BASE[:250], BASE[:400], BASE[:450]])[1] == expected


def test_little_in_common_is_not_worth_a_forward(
    small_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "read_pieces", lambda *_: pytest.fail("read a row alone"))
    model = small_model("plain")
    assert answers(model, [[*BASE[:80], 1], [*BASE[:80], 2]])[1] == [0, 0]
    assert answers(model, [[1, *BASE], [2, *BASE]])[1] == [0, 0]


def test_questions_on_one_document(demo: LLM) -> None:
    document = "A bear named Tim lived in a red house by the lake. He had a blue boat and a yellow hat. " * 12
    questions = ["What colour was the boat?", "Who lived in the house?", "What colour was the hat?"]
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 30}
    done = demo.complete([document + question for question in questions], **options)
    assert [one.cached_tokens for one in done].count(0) == 1
    assert max(one.cached_tokens for one in done) >= 256
    for question, one in zip(questions, done, strict=True):
        assert demo.complete(document + question, **options)[0].text == one.text


def test_a_draft_model_shares_too() -> None:
    document = "A bear named Tim lived in a red house by the lake. He had a blue boat and a yellow hat. " * 12
    prompts = [document + "Who?", document + "Where?"]
    llm = LLM.load(draft_model="demo", distribute=None)
    llm.distribute("cpu", precision="32-true")
    sizes: list[tuple[int, ...]] = []
    assert llm._draft is not None
    hook = llm._draft.model.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 30}
    found = llm.generate(prompts, **options)
    hook.remove()
    assert sizes[:4] == [(1, 64), (1, 64), (1, 128), (2, 44)]
    assert found == llm.generate(prompts, speculative="off", **options)


@pytest.fixture(scope="module")
def demo() -> LLM:
    llm = LLM.load(distribute=None)
    llm.distribute("cpu", precision="32-true")
    return llm
