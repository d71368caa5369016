"""What was read once is taken over, and gives bit for bit what reading it again gives."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llm_cli import LLM
from llm_cli.generation import Generation
from llm_cli.options import Options
from llm_cli.pieces import COARSEST, FINEST, cut_below, next_cut
from llm_cli.reading import PromptCache

KINDS = ("plain", "window", "longrope", "dynamic")


@pytest.fixture(params=KINDS)
def model(request: Any, small_model: Callable[[str], Any]) -> Any:
    return small_model(request.param)


@pytest.fixture(scope="module")
def demo() -> Callable[[str], LLM]:
    """The model that ships, once in each precision."""
    loaded: dict[str, LLM] = {}

    def load(precision: str) -> LLM:
        if precision not in loaded:
            loaded[precision] = LLM.load(distribute=None)
            quantize = precision if precision.startswith("int") else None
            loaded[precision].distribute("cpu", precision=None if quantize else precision, quantize=quantize)
        return loaded[precision]

    return load


def ids_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(97, (length,), generator=generator).tolist()


def answer(model: Any, ids: list[int], cache: PromptCache | None = None, new: int = 12, **more: Any) -> Any:
    """The likeliest ids after `ids` with all there is to tell of their logits, and how many of `ids` were known."""
    options = Options(**{"temperature": 0, "max_new_tokens": new, "ignore_eos": True, "logprobs": 5} | more)
    one = Generation(model, [ids], options, tokenizer=None, limit=2048, cache=cache).finish()[0]
    return (one.token_ids, one.logprobs), one.cached_tokens


def read_anew(model: Any, ids: list[int], **more: Any) -> Any:
    return answer(model, ids, PromptCache(exact=True), **more)[0]


def test_cuts_are_the_same_from_wherever_one_looks() -> None:
    cuts = [0]
    while cuts[-1] < 2000:
        cuts.append(next_cut(cuts[-1]))
    assert cuts[:6] == [0, FINEST, 2 * FINEST, COARSEST, 2 * COARSEST, 3 * COARSEST]
    for length in range(1900):
        below = max(cut for cut in cuts if cut <= length)
        assert cut_below(length) == below
        assert next_cut(length) == cuts[cuts.index(below) + 1]


@pytest.mark.parametrize("new", [1, 40])
def test_a_prompt_that_begins_as_another_did_is_answered_as_if_read_anew(model: Any, new: int) -> None:
    """Of 600 ids, also where windows have forgotten them in the meantime; 1 id more makes a forward of 1 row."""
    cache, ids = PromptCache(exact=True), ids_of(600)
    turns = [ids[:530], ids[:531], ids[:590], [*ids[:520], 3, 4], ids[:300], ids, ids, ids[:64], ids[:65], ids[:63]]
    for turn in turns:
        assert answer(model, turn, cache, new)[0] == read_anew(model, turn, new=new)


def test_how_much_is_taken_over(small_model: Callable[[str], Any]) -> None:
    model = small_model("plain")
    cache, ids = PromptCache(exact=True), ids_of(600)
    turns = [ids[:530], ids[:531], ids[:531], ids, ids[:512], ids[:100], ids[:100], ids[:64], ids[:64], ids[:20]]
    known = [answer(model, turn, cache)[1] for turn in turns]
    assert known == [0, 512, 531, 512, 256, 64, 100, 0, 64, 0]


def test_windows_that_went_on_leave_the_pieces_of_the_prompt(small_model: Callable[[str], Any]) -> None:
    model = small_model("window")
    cache, ids = PromptCache(exact=True), ids_of(600)
    known = [answer(model, turn, cache, 200)[1] for turn in (ids, [*ids[:580], 1, 2, 3], ids, ids[:400])]
    assert known == [0, 512, 512, 0]


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_texts_with_other_angles_share_nothing(kind: str, small_model: Callable[[str], Any]) -> None:
    model = small_model(kind)
    cache, ids = PromptCache(exact=True), ids_of(400)
    turns = [ids[:200], ids[:290], ids, ids, ids[:299]]
    known = []
    for turn in turns:
        found, count = answer(model, turn, cache, 30)  # the second goes past the trained length
        assert found == read_anew(model, turn, new=30)
        known.append(count)
    assert known == [0, 128, 0, 400, 0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "int8", "int4"])
def test_logits_of_the_model_that_ships_are_equal_bit_for_bit(demo: Callable[[str], LLM], precision: str) -> None:
    llm, cache = demo(precision), PromptCache(exact=True)
    story = "Once upon a time there was a little bear who lived in the forest. " * 20
    prompts = [story, story + "One day", story[:-30], story[:400] + "Who was it?", story[:400] + "Who was it? Why"]
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 20, "logprobs": 5}
    known = []
    for prompt in prompts:
        warm = llm.complete(prompt, cache=cache, **options)[0]
        cold = llm.complete(prompt, cache=PromptCache(exact=True), **options)[0]
        assert (warm.token_ids, warm.logprobs) == (cold.token_ids, cold.logprobs)
        plain = llm.complete(prompt, **options)[0]
        assert plain.prompt_tokens == warm.prompt_tokens
        if precision == "32-true":
            assert plain.token_ids == warm.token_ids
        known.append(warm.cached_tokens)
    assert known[0] == 0
    assert min(known[1:]) >= 64


def test_samples_continue_what_a_cache_holds(model: Any) -> None:
    cache, ids = PromptCache(exact=True), ids_of(400)
    options: dict[str, Any] = {"temperature": 1.0, "num_samples": 3, "seed": 4, "logprobs": 2}

    def samples(cache: PromptCache, ids: list[int]) -> list[Any]:
        run = Generation(model, [ids], Options(**options), tokenizer=None, limit=2048, cache=cache)
        return [(one.token_ids, one.logprobs) for one in run.finish()]

    for turn in (ids, [*ids[:290], 5], ids[:100], ids[:100]):
        assert samples(cache, turn) == samples(PromptCache(exact=True), turn)


@pytest.mark.parametrize("how", ["ngram", "self"])
def test_speculation_goes_with_it(how: str, small_model: Callable[[str], Any]) -> None:
    model = small_model("plain")
    cache, ids = PromptCache(exact=True), [*ids_of(50), *ids_of(50), *ids_of(200)]
    for turn in (ids, [*ids, *ids_of(30)], ids[:100]):
        found = answer(model, turn, cache, speculative=how, logprobs=None)[0]
        assert found == answer(model, turn, logprobs=None)[0]


def test_a_draft_proposes_the_same_whatever_was_known() -> None:
    """Else the passes would differ, and with them last bits."""
    llm = LLM.load(draft_model="demo", distribute=None)
    llm.distribute("cpu", precision="bf16-true")
    cache, story = PromptCache(exact=True), "Once upon a time there was a little bear who lived in the forest. " * 12
    for prompt in (story, story + "One day", story + "One day, he"):
        warm, cold = (
            llm.complete(prompt, cache=each, temperature=0, max_new_tokens=30, logprobs=2)[0]
            for each in (cache, PromptCache(exact=True))
        )
        assert (warm.token_ids, warm.logprobs, warm.passes) == (cold.token_ids, cold.logprobs, cold.passes)
        assert warm.proposed_tokens == cold.proposed_tokens > 0


@pytest.mark.parametrize("layer", ["0", "1"])
def test_an_interruption_leaves_nothing_wrong(model: Any, layer: str) -> None:
    """In the pieces, in the rest of a prompt, and in an answer."""
    ids = ids_of(600)
    for when in (1, 3, 5):
        cache, calls = PromptCache(exact=True), []
        answer(model, ids[:200], cache)

        def interrupted(*_: Any, calls: list[int] = calls, when: int = when) -> None:
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt

        hook = model.mid[layer].register_forward_hook(interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer(model, ids, cache)
        hook.remove()
        for turn in (ids[:590], ids[:200], ids):
            assert answer(model, turn, cache)[0] == read_anew(model, turn)


def test_an_interruption_while_the_kept_pieces_are_copied(
    small_model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("window")
    cache, ids = PromptCache(exact=True), ids_of(600)
    answer(model, ids, cache, 200)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llm_blocks.KVCache.copy_from", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer(model, ids[:590], cache)
    for turn in (ids[:580], ids):
        assert answer(model, turn, cache)[0] == read_anew(model, turn)


def test_a_model_in_another_precision_reads_anew(demo: Callable[[str], LLM]) -> None:
    """The same module, moved; and another module."""
    cache, ids = PromptCache(exact=True), list(range(10, 200))
    first = copy.deepcopy(demo("32-true").model)
    answer(first, ids, cache)
    first.to(torch.bfloat16)
    assert answer(first, ids, cache)[1] == 0
    assert answer(first, ids, cache)[1] == len(ids)
    assert answer(demo("32-true").model, ids, cache)[1] == 0


def test_several_prompts_do_not_go_with_a_cache(demo: Callable[[str], LLM]) -> None:
    with pytest.raises(ValueError, match="goes with one prompt; leave it out for several"):
        demo("32-true").generate(["a", "b"], cache=PromptCache())
