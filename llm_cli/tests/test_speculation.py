"""Speculation changes speed alone: every proposer, in batches, with all options, in the text and the token ids."""

from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_cli import LLM, demo_folder
from llm_cli.generation import Generation
from llm_cli.options import Options
from llm_cli.reading import PromptCache
from llm_model_llama import llama, mistral
from llm_model_phi import phi3

PROMPTS = [[7, 8, 9, 10, 7, 8], list(range(30, 60)) * 2, [20]]
HOWS = ["ngram", "draft", "self"]
SIZES: dict[str, Any] = {"vocab_size": 97, "dim": 32, "hidden_dim": 48, "num_heads": 4, "num_kv_heads": 2}
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 5, "num_samples": 3},
    {"temperature": 0, "repetition_penalty": 1.3, "frequency_penalty": 0.3},
    {"temperature": 1.3, "seed": 1, "presence_penalty": 0.5, "min_p": 0.01, "typical_p": 0.95},
    {"temperature": 0.8, "seed": 2, "stop": [11, 12, 40, 41], "min_new_tokens": 7},
    {"temperature": 0.5, "seed": 9, "logit_bias": {5: 1.5}, "logprobs": 2},
]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """A model with windows and one that is nearly its first two layers, in fp32."""
    config = mistral.Config(**SIZES, num_layers=4, head_dim=8, max_positions=1024, sliding_window=8)
    model = llm_blocks.new_model(config, std=0.1, seed=1).eval()
    draft_config = llama.Config(**SIZES, num_layers=2, head_dim=8, max_positions=200)
    draft = llm_blocks.new_model(draft_config, std=0.1, seed=1).eval()
    return model, draft


def run(
    pair: tuple[Any, Any], prompts: list[list[int]], how: str, *, limit: int = 400, **options: Any
) -> tuple[list[list[int]], Generation]:
    settings = {"max_new_tokens": 60, "ignore_eos": True, "speculative": how} | options
    cache = settings.pop("cache", None)
    generation = Generation(
        pair[0], prompts, Options(**settings), tokenizer=None, limit=limit, cache=cache, draft=pair[1]
    )
    return [list(one.token_ids) for one in generation.finish()], generation


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_is_that_of_plain_decoding(pair: tuple[Any, Any], how: str, options: dict[str, Any]):
    plain, _ = run(pair, PROMPTS, "off", **options)
    found, generation = run(pair, PROMPTS, how, speculative_tokens=3, **options)
    assert found == plain
    assert sum(one.proposed_tokens for one in generation.completions) > 0


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("budget", [1, 2, 6, 7, 8, 9])
def test_budgets_end_in_the_middle_of_a_round(pair: tuple[Any, Any], how: str, budget: int):
    plain, _ = run(pair, PROMPTS, "off", max_new_tokens=60, temperature=0)
    found, _ = run(pair, PROMPTS, how, max_new_tokens=budget, temperature=0, speculative_tokens=8)
    assert found == [ids[:budget] for ids in plain]


@pytest.mark.parametrize("how", HOWS)
def test_the_context_ends_in_the_middle_of_a_round(pair: tuple[Any, Any], how: str):
    """The longest prompt has 60 tokens; the cache has no room for proposals beyond the limit."""
    plain, _ = run(pair, PROMPTS, "off", limit=77, temperature=0)
    assert [len(ids) for ids in plain] == [60, 17, 60]
    assert run(pair, PROMPTS, how, limit=77, temperature=0, speculative_tokens=16)[0] == plain


def test_a_draft_with_a_shorter_context_stops_proposing(pair: tuple[Any, Any]):
    plain, _ = run(pair, PROMPTS, "off", max_new_tokens=250, temperature=0)
    found, generation = run(pair, PROMPTS, "draft", max_new_tokens=250, temperature=0, speculative_tokens=3)
    assert found == plain
    assert generation.completions[1].passes > 100  # its 60 tokens leave the draft room for 140 more


def test_the_same_model_as_draft_is_always_right_and_needs_fewer_passes(pair: tuple[Any, Any]):
    twice = (pair[0], pair[0])
    for options in ({"temperature": 0}, {"temperature": 1.2, "seed": 4, "repetition_penalty": 1.2}):
        plain, _ = run(twice, PROMPTS[:1], "off", **options)
        found, generation = run(twice, PROMPTS[:1], "draft", **options)
        done = generation.completions[0]
        assert found == plain
        assert done.accepted_tokens == done.proposed_tokens > 40
        assert done.passes < 20
        assert done.speed_up is not None


def test_a_text_that_repeats_is_quoted(pair: tuple[Any, Any]):
    """A greedy text of an untrained model runs into a loop, which the lookup sees."""
    plain, _ = run(pair, [[5, 6]], "off", temperature=0, max_new_tokens=300)
    found, generation = run(pair, [[5, 6]], "ngram", temperature=0, max_new_tokens=300)
    assert found == plain
    assert generation.completions[0].accepted_tokens > 100
    assert generation.completions[0].passes < 200


@pytest.mark.parametrize("how", HOWS)
def test_a_conversation_goes_on_from_what_was_kept(pair: tuple[Any, Any], how: str):
    """Refused proposals are in the cache behind an answer; none of them may be taken for text."""
    cache, ids = PromptCache(), PROMPTS[0]
    known = []
    for _ in range(4):
        found, generation = run(pair, [ids], how, cache=cache, temperature=0.9, seed=1, max_new_tokens=17)
        assert found == run(pair, [ids], "off", temperature=0.9, seed=1, max_new_tokens=17)[0]
        known.append(generation.completions[0].cached_tokens)
        ids = [*ids, *found[0], 3, 4]
    assert known == [0, 22, 41, 60]
    if how == "draft":
        assert cache.draft._ids == ids[: cache.draft.known]
        assert cache.draft.known > 60


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("window", [None, 10])
def test_texts_that_outgrow_the_short_factors(how: str, window: int | None):
    """LongRoPE: rows cross the trained length at different times, and are read again there."""
    rope = llm_blocks.Rope(
        kind="longrope", factor=4.0, original_max_positions=24, short_factor=(1.0,) * 4, long_factor=(3.0,) * 4
    )
    sizes = {**SIZES, "num_layers": 3, "head_dim": 8, "max_positions": 192, "sliding_window": window}
    model = llm_blocks.new_model(phi3.Config(**sizes, rope=rope), std=0.1, seed=2).eval()
    draft = llm_blocks.new_model(phi3.Config(**{**sizes, "num_layers": 1}, rope=rope), std=0.1, seed=2).eval()
    prompts = [list(range(n)) for n in (3, 9, 23, 24, 25, 60, 20)]
    for options in ({"temperature": 0}, {"temperature": 1.0, "seed": 7}):
        plain, _ = run((model, draft), prompts, "off", limit=192, **options)
        assert run((model, draft), prompts, how, limit=192, **options)[0] == plain
        for ids, expected in zip(prompts, plain, strict=True):
            alone, generation = run((model, draft), [ids], how, limit=192, max_new_tokens=60, **options)
            assert alone == [expected] or options["temperature"] > 0  # each prompt draws with the same seed
            assert generation.completions[0].proposed_tokens > 0


@pytest.mark.parametrize("how", HOWS)
def test_angles_that_depend_on_the_length_are_those_of_plain_steps(how: str):
    rope = llm_blocks.Rope(kind="dynamic", factor=4.0, original_max_positions=24)
    config = llama.Config(**SIZES, num_layers=3, head_dim=8, max_positions=192, rope=rope)
    model = llm_blocks.new_model(config, std=0.2, seed=2).eval()
    for ids in ([4, 5], list(range(22)), list(range(40))):
        plain, _ = run((model, model), [ids], "off", limit=192, temperature=0)
        assert run((model, model), [ids], how, limit=192, temperature=0)[0] == plain


def test_a_draft_with_other_padding_and_other_windows(pair: tuple[Any, Any]):
    for vocab in (90, 110):
        config = mistral.Config(
            **{**SIZES, "vocab_size": vocab}, num_layers=1, head_dim=8, max_positions=300, sliding_window=5
        )
        draft = llm_blocks.new_model(config, std=0.1, seed=1).eval()
        for options in OPTIONS[:4]:
            found, _ = run((pair[0], draft), PROMPTS, "draft", **options)
            assert found == run(pair, PROMPTS, "off", **options)[0]


def test_samples_of_small_vocabulary_have_the_models_distribution():
    """4,096 draws of two tokens by a draft unlike the model, against the model's exact probabilities."""
    sizes = {**SIZES, "vocab_size": 5, "num_layers": 2, "head_dim": 8, "max_positions": 64}
    model, draft = (llm_blocks.new_model(llama.Config(**sizes), std=0.35, seed=seed).eval() for seed in (1, 2))
    options = {"num_samples": 4096, "seed": 0, "max_new_tokens": 9}
    found, generation = run((model, draft), [[1, 2, 3]], "draft", **options)
    done = generation.completions
    share = sum(one.accepted_tokens for one in done) / sum(one.proposed_tokens for one in done)
    assert 0.1 < share < 0.9
    for place in (6, 7):  # the first rounds are plain; given what came before, each token has the model's own chances
        before = torch.tensor([[1, 2, 3, *ids[:place]] for ids in found])
        with torch.inference_mode():
            probs = model(before)[:, -1].softmax(-1)  # (N, V)
        drawn = torch.nn.functional.one_hot(torch.tensor(found)[:, place], 5)
        error = (drawn - probs).sum(0) / (probs * (1 - probs)).sum(0).sqrt()
        assert error.abs().max() < 4.5
        likely = probs.argmax(-1)
        kept = (drawn.gather(1, likely[:, None]) - probs.gather(1, likely[:, None])).sum()
        spread = (probs.amax(-1) * (1 - probs.amax(-1))).sum().sqrt()
        assert abs(kept / spread) < 4.5


@pytest.fixture(scope="module")
def demo() -> LLM:
    llm = LLM.load(draft_model="demo", distribute=None)
    llm.distribute(accelerator="cpu", precision="32-true")
    return llm


def test_text_stop_strings_and_streams_of_a_trained_model(demo: LLM):
    prompts = ["What do llamas eat?", "Tell me a story about a bear.", "Hi!"]
    for options in (
        {"temperature": 0},
        {"temperature": 0.8, "seed": 4, "top_k": 50},
        {"stop": ["the", "."], "seed": 1},
    ):
        plain = demo.generate(prompts, speculative="off", max_new_tokens=60, **options)
        for how in HOWS:
            assert demo.generate(prompts, speculative=how, max_new_tokens=60, **options) == plain
            pieces = demo.generate(prompts[1], stream=True, speculative=how, max_new_tokens=60, **options)
            assert "".join(pieces) == demo.generate(prompts[1], speculative="off", max_new_tokens=60, **options)


def test_the_draft_model_is_used_unless_switched_off(demo: LLM):
    assert demo.complete("Hi!", temperature=0)[0].passes > 0
    assert demo.complete("Hi!", temperature=0, speculative="off")[0].passes == 0
    assert demo._draft is not None
    assert demo._draft.model.end.head.weight.dtype == demo.model.end.head.weight.dtype == torch.float32
    assert demo.complete("Hi!", temperature=0, speculative="self", speculative_layers=1)[0].passes > 0


def test_a_wrong_draft_model_is_refused(instruct: Path, make_checkpoint: Any):
    with pytest.raises(ValueError, match=r"264 ids and the draft model [\d,]+, so they don't share a vocabulary"):
        LLM.load(instruct, draft_model=demo_folder(), distribute=None)
    with pytest.raises(ValueError, match="knows 264 ids and the draft model 270, and without a tokenizer"):
        LLM.load(instruct, draft_model=make_checkpoint(tokenizer=False, vocab_size=270), distribute=None)
    LLM.load(instruct, draft_model=make_checkpoint(vocab_size=270), distribute=None)  # padded


def test_a_draft_model_with_other_tokens_is_refused(instruct: Path, make_checkpoint: Any):
    folder = make_checkpoint()
    file = folder / "tokenizer.json"
    text = file.read_text()
    for a, b in zip("abcdef", "uvwxyz", strict=True):  # six of 262 tokens change places with others
        text = (
            text.replace(f'"{a}":', '"\N{SNOWMAN}":').replace(f'"{b}":', f'"{a}":').replace('"\N{SNOWMAN}":', f'"{b}":')
        )
    file.write_text(text)
    with pytest.raises(ValueError, match=r"another tokenizer: 12 of 264 ids are other tokens, the first of them \d+"):
        LLM.load(instruct, draft_model=folder, distribute=None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speculative": "none"}, "speculative must be one of ngram, draft, self, off"),
        ({"speculative": "draft"}, "needs a draft model; name one as draft_model"),
        ({"speculative": "ngram", "speculative_tokens": 0}, "from 1 to 32, not 0"),
        ({"speculative": "ngram", "speculative_tokens": 33}, "from 1 to 32, not 33"),
        ({"speculative_layers": 1}, "goes with speculative='self' alone"),
        ({"speculative": "self", "speculative_layers": 0}, "from 1 up, not 0"),
        ({"speculative": "self", "speculative_layers": 2}, "from 1 to 1 of this model's 2"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(llm: LLM, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        llm.start([1, 2], **options)


def test_the_speed_is_measured_by_passes(demo: LLM):
    """The bytes read per second count calls of the model, not the tokens that a call may give several of."""
    options: dict[str, Any] = {"prompt": "Tell me a story about a bear.", "temperature": 0, "max_new_tokens": 60}
    _, figures = demo.benchmark(**options)
    _, plain = demo.benchmark(**options, speculative="off")
    ratio = [one["Bytes read per second"] / one["Decode speed in tokens/sec"] for one in (figures, plain)]
    assert ratio[0] < ratio[1] / 2
