"""Reading prompts in chunks, and keeping what was read."""

from typing import Any

import pytest
import torch

import llm_blocks
from llm_cli import LLM
from llm_cli.generation import Generation
from llm_cli.options import Options
from llm_cli.reading import PromptCache, prefill, spread
from llm_model_llama import mistral
from llm_model_phi import phi3


@pytest.fixture(scope="module")
def windowed() -> Any:
    """A model whose layers see 8 positions, and whose caches keep 72."""
    sizes = {"vocab_size": 97, "dim": 32, "hidden_dim": 48, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2}
    config = mistral.Config(**sizes, head_dim=8, max_positions=1024, sliding_window=8)
    return llm_blocks.new_model(config, std=0.1).eval()


def answer(model: Any, ids: list[int], cache: PromptCache | None = None) -> tuple[list[int], int]:
    """The 30 likeliest ids after `ids`, and how many of `ids` were known already."""
    options = Options(temperature=0, max_new_tokens=30, ignore_eos=True)
    completion = Generation(model, [ids], options, tokenizer=None, limit=1024, cache=cache).finish()[0]
    return list(completion.token_ids), completion.cached_tokens


def test_a_conversation_beyond_a_window_is_that_of_a_fresh_cache(windowed: Any):
    cache, ids = PromptCache(), torch.arange(180).remainder(97).tolist()
    known = []
    changes = (
        lambda ids: [*ids, 5, 6, 7],  # the next turn
        lambda ids: [*ids[:-20], 9],  # an answer made again, not further back than the cache keeps
        lambda ids: [*ids[:50], 3, *ids[51:]],  # an earlier turn edited, which the windows have forgotten
        lambda ids: ids[:40],
    )
    for change in changes:
        found, count = answer(windowed, ids, cache)
        assert found == answer(windowed, ids)[0]
        known.append(count)
        ids = change(ids + found)
    assert known == [0, 209, 223, 0]


def test_a_conversation_beyond_a_window_is_right_after_an_interruption(windowed: Any):
    """Ctrl-C between two layers left in the first one's ring what passed for older positions in the next turn."""
    cache, ids = PromptCache(), torch.arange(180).remainder(97).tolist()
    answer(windowed, ids, cache)

    def interrupted(module: object, arguments: object, output: object) -> None:
        raise KeyboardInterrupt

    hook = windowed.mid["1"].register_forward_hook(interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(windowed, [*ids, *range(90)], cache)
    hook.remove()
    assert answer(windowed, [*ids, 40, 41], cache)[0] == answer(windowed, [*ids, 40, 41])[0]


def test_a_prompt_cache_is_right_after_an_interruption_while_it_grew(windowed: Any, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C while keys went into a longer cache left ids that were noted as read twice, though read once."""
    cache, ids = PromptCache(), [*range(90), *range(90)]
    answer(windowed, ids, cache)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    ids += range(60)
    with monkeypatch.context() as patch:
        patch.setattr("llm_blocks.KVCache.copy_from", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer(windowed, ids, cache)
    known = []
    for _ in range(2):
        found, count = answer(windowed, ids, cache)
        assert found == answer(windowed, ids)[0]
        known.append(count)
        ids = [*ids, *found, 7]
    assert known == [0, 269]


def test_a_conversation_that_outgrows_the_short_factors_is_read_anew():
    """LongRoPE turns keys by other angles in caches with room for long texts."""
    rope = llm_blocks.Rope(
        kind="longrope", factor=4.0, original_max_positions=256, short_factor=(1.0,) * 4, long_factor=(3.0,) * 4
    )
    sizes = {"vocab_size": 97, "dim": 32, "hidden_dim": 48, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4}
    model = llm_blocks.new_model(phi3.Config(**sizes, head_dim=8, max_positions=1024, rope=rope), std=0.1).eval()
    cache, ids, known = PromptCache(), list(range(90)), []
    for _ in range(4):
        found, count = answer(model, ids, cache)
        assert found == answer(model, ids)[0]
        known.append(count)
        ids = [*ids, *found, *range(60)]
    assert known == [0, 119, 0, 299]


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
