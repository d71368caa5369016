"""Reading prompts in chunks, and keeping what was read."""

import pytest
import torch

from llm_cli import LLM
from llm_cli.reading import PromptCache, prefill, spread


def test_chunks_of_unequal_prompts_give_the_logits_of_each_prompt_alone(llm: LLM):
    prompts = [list(range(10, 33)), [40, 41], list(range(50, 61))]
    cache = llm.model.new_cache(3, 64)
    logits = prefill(llm.model, cache, prompts, chunk=4)
    assert cache.lengths == [23, 2, 11]
    for row, ids in enumerate(prompts):
        alone = llm.model(torch.tensor([ids]))[0, -1]
        torch.testing.assert_close(logits[row, 0], alone, rtol=1e-4, atol=1e-4)


def test_samples_continue_copies_of_the_prompt(llm: LLM):
    cache = llm.model.new_cache(2, 16)
    prefill(llm.model, cache, [[7, 8, 9], [20]])
    wide = spread(llm.model, cache, 2, 32)
    assert (wide.lengths, wide.capacity) == ([3, 3, 1, 1], 32)
    with torch.inference_mode():
        new = llm.model(torch.tensor([[11]] * 4), wide)[:, -1]
    expected = llm.model(torch.tensor([[7, 8, 9, 11]]))[0, -1]
    torch.testing.assert_close(new[1], expected, rtol=1e-4, atol=1e-4)


def test_a_prompt_cache_is_right_after_an_interruption(llm: LLM):
    """Ctrl-C in the middle of reading a prompt leaves positions in the cache that no list of ids knows of."""
    cache, ids, other = PromptCache(), list(range(10, 30)), [*range(10, 14), *range(50, 70)]
    llm.complete(ids[:6], cache=cache, max_new_tokens=1)

    def interrupted(module: object, arguments: object, output: object) -> None:
        raise KeyboardInterrupt

    hook = llm.model.register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        llm.complete(ids, cache=cache)
    hook.remove()
    kept = llm.complete(other, cache=cache, temperature=0, max_new_tokens=8)[0]
    assert kept.cached_tokens == 4
    assert kept.token_ids == llm.complete(other, temperature=0, max_new_tokens=8)[0].token_ids


def test_a_prompt_cache_gives_the_answers_of_a_fresh_one(llm: LLM):
    cache = PromptCache()
    prompts = [list(range(10, 30)), list(range(10, 40)), [*range(10, 20), 99, 98], list(range(10, 40))]
    known = []
    for ids in prompts:
        kept = llm.complete(ids, cache=cache, temperature=0, max_new_tokens=8)[0]
        known.append(kept.cached_tokens)
        assert kept.token_ids == llm.complete(ids, temperature=0, max_new_tokens=8)[0].token_ids
    assert known == [0, 20, 10, 10]


def test_a_prompt_cache_grows_and_keeps_what_it_has(llm: LLM, monkeypatch):
    monkeypatch.setattr("llm_cli.reading.ROUND", 16)
    cache = PromptCache()
    llm.complete(list(range(10, 22)), cache=cache, temperature=0, max_new_tokens=2)
    long = llm.complete(list(range(10, 70)), cache=cache, temperature=0, max_new_tokens=8)[0]
    assert long.cached_tokens == 12
    assert long.token_ids == llm.complete(list(range(10, 70)), temperature=0, max_new_tokens=8)[0].token_ids


def test_a_prompt_cache_of_another_model_is_not_used(llm: LLM, base_llm: LLM):
    cache = PromptCache()
    llm.complete([10, 11, 12, 13], cache=cache, max_new_tokens=2)
    assert base_llm.complete([10, 11, 12, 13], cache=cache, max_new_tokens=2)[0].cached_tokens == 0
