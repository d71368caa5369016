"""Keys and values of int8, through the LLM class and the command."""

import json
from pathlib import Path

import pytest
import torch

from llm_cli import LLM, PromptCache
from llm_cli.app import run
from llm_sepweight import WeightsError

PROMPT = "Tell me a story about a hungry rabbit."


@pytest.fixture(scope="module")
def whole() -> LLM:
    return LLM.load()


@pytest.fixture(scope="module")
def rounded() -> LLM:
    llm = LLM.load(distribute=None)
    llm.distribute(kv_cache="int8")
    return llm


def test_the_text_is_nearly_that_of_a_whole_cache(whole: LLM, rounded: LLM) -> None:
    """How far greedy texts agree depends on the first near tie; the probabilities say more."""
    options = {"temperature": 0, "max_new_tokens": 40, "logprobs": 1}
    found, wanted = (llm.complete(PROMPT, **options)[0] for llm in (rounded, whole))  # type: ignore
    same = 4
    assert found.token_ids[:same] == wanted.token_ids[:same]
    apart = [abs(a.logprob - b.logprob) for a, b in zip(found.logprobs[:same], wanted.logprobs[:same], strict=True)]
    assert 0 < max(apart) < 0.1


def test_lists_samples_and_speculation_work_with_it(rounded: LLM) -> None:
    plain = rounded.generate(PROMPT, temperature=0, max_new_tokens=30)
    for how in ("ngram", "self"):
        assert rounded.generate(PROMPT, temperature=0, max_new_tokens=30, speculative=how) == plain
    texts = rounded.generate([PROMPT, "Hi!"], temperature=0, max_new_tokens=30, num_samples=2)
    assert texts[0] == texts[1]
    assert len(texts) == 4


def test_a_prompt_cache_knows_of_which_kind_it_is(whole: LLM, rounded: LLM, tmp_path: Path) -> None:
    cache = PromptCache(exact=True)
    text = rounded.generate(PROMPT * 12, cache=cache, temperature=0, max_new_tokens=20)
    cache.save(tmp_path / "rounded.cache")
    again = PromptCache.load(tmp_path / "rounded.cache", rounded.model)
    assert rounded.generate(PROMPT * 12, cache=again, temperature=0, max_new_tokens=20) == text
    with pytest.raises(WeightsError):
        PromptCache.load(tmp_path / "rounded.cache", whole.model)


def test_a_model_may_get_another_cache_later() -> None:
    llm = LLM.load()
    cache = PromptCache()
    llm.generate(PROMPT, cache=cache, max_new_tokens=3, seed=1)
    llm.distribute(kv_cache="int8")
    assert llm.model.new_cache(1, 8).k[0].dtype == torch.int8
    assert llm.generate(PROMPT, cache=cache, max_new_tokens=3, seed=1)
    llm.distribute()
    assert llm.model.new_cache(1, 8).k[0].dtype != torch.int8
    with pytest.raises(ValueError, match="kv_cache must be 'int8' or left out, not 'int4'"):
        llm.distribute(kv_cache="int4")  # type: ignore


def test_the_command_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--prompt", PROMPT, "--kv_cache", "int8", "--max_new_tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert run(["generate", "--prompt", PROMPT, "--kv-cache", "int3"]) == 2
