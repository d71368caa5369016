"""The LLM class on small random checkpoints."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_cli import LLM
from llm_cli.belonging import TokenizerWarning
from llm_cli.completion import Completion

GREEDY = {"temperature": 0, "max_new_tokens": 12}


def fp32(folder: Path, **settings: Any) -> LLM:
    llm = LLM.load(folder, distribute=None)
    llm.distribute(accelerator="cpu", precision="32-true", **settings)
    return llm


def test_generate_continues_as_the_model_alone_does(llm: LLM):
    ids = llm.tokenizer.encode("hello")
    expected = []
    for _ in range(12):
        expected.append(int(llm.forward(torch.tensor([ids + expected]))[0, -1].argmax()))
    generated = llm.generate("hello", raw=True, return_as_token_ids=True, ignore_eos=True, **GREEDY)
    assert generated.tolist() == expected


def test_prompts_of_unequal_length_in_a_batch_give_what_each_gives_alone(llm: LLM):
    prompts = ["hi", "a prompt that is quite a bit longer", "middling"]
    together = llm.generate(prompts, **GREEDY)
    assert together == [llm.generate(prompt, **GREEDY) for prompt in prompts]


def test_a_seed_repeats_a_text_in_any_company(llm: LLM):
    alone = llm.generate("hello", seed=7)
    assert llm.generate("hello", seed=7) == alone
    assert llm.generate(["something longer", "hello"], seed=7)[1] == alone
    assert llm.generate("hello", seed=8) != alone


def test_samples_of_one_prompt_differ_and_repeat(llm: LLM):
    samples = llm.generate("hello", seed=7, num_samples=3)
    assert len(set(samples)) == 3
    assert samples == llm.generate("hello", seed=7, num_samples=3)
    assert samples[1] == llm.generate("hello", seed=8)


def test_stream_gives_the_same_text_in_pieces(llm: LLM):
    pieces = list(llm.generate("hello", stream=True, seed=3))
    assert len(pieces) > 1
    assert "".join(pieces) == llm.generate("hello", seed=3)


def test_stream_of_ids(llm: LLM):
    ids = list(llm.generate("hello", stream=True, return_as_token_ids=True, **GREEDY))
    assert torch.cat(ids).tolist() == llm.generate("hello", return_as_token_ids=True, **GREEDY).tolist()


def test_a_stream_complains_when_called_not_when_read(llm: LLM):
    with pytest.raises(ValueError, match="temperature"):
        llm.generate("hello", stream=True, temperature=-1)


def test_text_goes_through_the_template_unless_raw(llm: LLM):
    templated = llm.encode("hello")
    assert llm.tokenizer.decode(templated, skip_special=False) == "<|user|>hello<|end|><|assistant|>"
    assert llm.tokenizer.decode(llm.encode("hello", raw=True)) == "hello"
    messages = [{"role": "user", "content": "hello"}]
    assert llm.encode(messages) == templated
    assert llm.generate(messages, **GREEDY) == llm.generate("hello", **GREEDY)
    assert llm.tokenizer.decode(llm.encode("hi", sys_prompt="be brief"), skip_special=False).startswith(
        "<|system|>be brief<|end|><|user|>hi"
    )


def test_a_checkpoint_without_a_template_continues_the_text(base_llm: LLM):
    assert base_llm.tokenizer.decode(base_llm.encode("hello"), skip_special=False) == "hello"


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("hello", {"sys_prompt": "x"}, "sys_prompt.*none"),
        ([{"role": "user", "content": "x"}], {}, "messages.*none"),
        ([], {}, "a prompt is"),
        ([1, "a"], {}, "only"),
        (["a", [1]], {}, "only"),
        (None, {}, "a prompt is"),
        (["a", "b"], {"stream": True}, "one prompt"),
        ([1], {"sys_prompt": "x"}, "ids"),
        ("x" * 200, {}, "200 tokens.*128"),
        ("hello", {"stop": ["", "x"]}, "stop"),
    ],
)
def test_a_wrong_prompt_is_told(base_llm: LLM, prompt: Any, options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        base_llm.generate(prompt, **options)


def test_raw_leaves_no_place_for_a_system_prompt(llm: LLM):
    with pytest.raises(ValueError, match="raw=True"):
        llm.generate("hello", raw=True, sys_prompt="x")


def test_messages_with_a_system_message_take_no_second(llm: LLM):
    with pytest.raises(ValueError, match="system"):
        llm.generate([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], sys_prompt="c")


def test_logprobs_come_with_a_completion(llm: LLM):
    done = llm.generate("hello", logprobs=2, raw=True, **GREEDY)
    assert isinstance(done, Completion)
    assert done.logprobs is not None
    assert [one.id for one in done.logprobs] == list(done.token_ids)
    logits = llm.forward(torch.tensor([llm.tokenizer.encode("hello")]))[0, -1]
    expected = logits.log_softmax(-1).topk(2)
    assert [i for i, _ in done.logprobs[0].top] == expected.indices.tolist()
    assert done.logprobs[0].logprob == pytest.approx(expected.values[0].item(), abs=1e-4)


def test_a_longer_answer_ends_where_the_context_does(llm: LLM):
    done = llm.complete("hello", max_new_tokens=1000, ignore_eos=True, raw=True)[0]
    assert (done.prompt_tokens + len(done.token_ids), done.finish_reason) == (128, "length")


def test_a_fixed_cache_limits_prompt_and_answer_together(instruct: Path):
    llm = fp32(instruct, fixed_kv_cache_size=20)
    assert len(llm.complete("hello", raw=True, ignore_eos=True)[0].token_ids) == 15
    with pytest.raises(ValueError, match=r"30 tokens.*20"):
        llm.generate("x" * 30, raw=True)
    whole = fp32(instruct, fixed_kv_cache_size="max_model_supported")
    assert whole.context_length == 128
    assert (
        whole.generate("hello", **GREEDY) == llm.generate("hello", **GREEDY)[: len(whole.generate("hello", **GREEDY))]
    )


def test_without_distribute_nothing_is_loaded(instruct: Path):
    llm = LLM.load(instruct, distribute=None)
    assert llm.config.num_layers == 2
    with pytest.raises(ValueError, match="distribute"):
        llm.generate("hello")
    llm.distribute(accelerator="cpu", precision="bf16-true")
    assert next(llm.model.parameters()).dtype == torch.bfloat16


def test_distribute_again_moves_the_weights(instruct: Path):
    llm = fp32(instruct)
    before = llm.generate("hello", **GREEDY)
    llm.distribute(accelerator="cpu", precision="bf16-true")
    assert next(llm.model.parameters()).dtype == torch.bfloat16
    llm.generate("hello", max_new_tokens=2)
    assert isinstance(before, str)


def test_distribute_refuses_before_it_reads(instruct: Path, monkeypatch: pytest.MonkeyPatch):
    llm = LLM.load(instruct, distribute=None)
    monkeypatch.setattr("llm_blocks.load", lambda *_, **__: pytest.fail("the weights were read"))
    with pytest.raises(ValueError, match="no quantization 'nf4'"):
        llm.distribute(quantize="nf4")


def test_random_weights_from_a_folder_and_a_tokenizer(instruct: Path):
    llm = LLM.load(str(instruct), init="random", tokenizer_dir=instruct, seed=3)
    again = LLM.load(str(instruct), init="random", tokenizer_dir=instruct, seed=3)
    assert llm.generate("hello", **GREEDY) == again.generate("hello", **GREEDY)
    trained = fp32(instruct).model.state_dict()["end.head.weight"]
    assert not torch.equal(llm.model.state_dict()["end.head.weight"].float(), trained)


def test_random_weights_know_the_presets_in_any_case(instruct: Path):
    llm = LLM.load("tinyllama-1.1b", init="random", tokenizer_dir=instruct, distribute=None)
    assert (llm.config.num_layers, llm.config.dim) == (22, 2048)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "TinyLlama-1.1B", "init": "random"}, "tokenizer_dir"),
        ({"model": "TinyLama-1.1B", "init": "random", "tokenizer_dir": "FOLDER"}, "TinyLlama-1.1B"),
        ({"model": "FOLDER", "init": "zeros"}, "init"),
        ({"model": "FOLDER", "distribute": "all"}, "distribute"),
        ({"model": "no/such/model/anywhere"}, "no/such/model/anywhere"),
    ],
)
def test_load_says_what_is_wrong(instruct: Path, arguments: dict[str, Any], words: str):
    arguments = {name: instruct if value == "FOLDER" else value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=words):
        LLM.load(**arguments)


def test_a_checkpoint_without_a_tokenizer_works_with_ids(make_checkpoint: Callable[..., Path]):
    llm = fp32(make_checkpoint(tokenizer=False))
    assert llm.generate([3, 4, 5], return_as_token_ids=True, max_new_tokens=4).shape == (4,)
    assert llm.complete([3, 4, 5], max_new_tokens=4)[0].text is None
    for prompt in ("text", [3, 4, 5]):
        with pytest.raises(ValueError, match="tokenizer"):
            llm.generate(prompt)


def test_tokenizer_dir_gives_the_tokenizer(make_checkpoint: Callable[..., Path], instruct: Path):
    llm = LLM.load(make_checkpoint(tokenizer=False), tokenizer_dir=instruct)
    assert llm.generate("hello", max_new_tokens=3) is not None


def test_save_makes_a_folder_that_loads_the_same(llm: LLM, tmp_path: Path):
    llm.save(tmp_path / "saved")
    again = fp32(tmp_path / "saved")
    assert again.generate("hello", **GREEDY) == llm.generate("hello", **GREEDY)
    assert again.tokenizer.end_ids == llm.tokenizer.end_ids
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["eos_token_id"] == [1, 5]
    with pytest.raises(ValueError, match="exists"):
        llm.save(tmp_path / "saved")


def test_saved_folders_load_in_transformers(llm: LLM, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    llm.save(tmp_path / "saved")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    ids = tokenizer("hello", return_tensors="pt").input_ids
    assert ids[0].tolist() == llm.tokenizer.encode("hello")
    torch.testing.assert_close(model(ids).logits, llm.forward(ids), rtol=1e-5, atol=1e-5)


def test_benchmark_has_the_known_keys_and_sound_numbers(llm: LLM):
    text, numbers = llm.benchmark(prompt="hello", seed=1, stream=True)
    assert text == llm.generate("hello", seed=1)
    assert {
        "Inference speed in tokens/sec",
        "Seconds to first token",
        "Seconds total",
        "Tokens generated",
        "Prefill speed in tokens/sec",
        "Decode speed in tokens/sec",
        "Bytes read per second",
    } <= set(numbers)
    count, seconds = numbers["Tokens generated"], numbers["Seconds total"]
    assert numbers["Inference speed in tokens/sec"] == pytest.approx(count / seconds)


def test_benchmark_of_several_iterations_has_lists(llm: LLM):
    """Each iteration generates once: a second, untimed run made the speed look half as high."""
    calls: list[int] = []
    hook = llm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    _, numbers = llm.benchmark(num_iterations=2, prompt="hello", max_new_tokens=5, ignore_eos=True)
    hook.remove()
    assert len(calls) == 2 * 5
    assert numbers["Tokens generated"] == [5, 5]


def test_bytes_per_token_leave_out_an_embedding_that_is_no_head(make_checkpoint: Callable[..., Path]):
    from llm_cli.benchmark import bytes_per_token

    untied = fp32(make_checkpoint(tokenizer=False)).model
    tied = fp32(make_checkpoint(tokenizer=False, tie_word_embeddings=True)).model
    assert bytes_per_token(untied, 0) == bytes_per_token(tied, 0)
    position = 2 * 2 * 2 * 8 * 4  # keys and values, layers, kv heads, head size, bytes
    assert bytes_per_token(tied, 10) - bytes_per_token(tied, 0) == 10 * position


def test_stories260k_continues_greedily_as_recorded(stories: Path, greedy_ids: list[int]):
    llm = fp32(stories)
    options = {"temperature": 0, "ignore_eos": True, "max_new_tokens": len(greedy_ids)}
    assert llm.generate([1], return_as_token_ids=True, **options).tolist() == greedy_ids
    assert llm.generate("", **options) == llm.tokenizer.decode(greedy_ids)


def test_stories260k_in_ragged_company(stories: Path, greedy_ids: list[int]):
    llm = fp32(stories)
    prompts = [[1], [1, *greedy_ids[:40]], [1, *greedy_ids[:7]]]
    rows = llm.generate(prompts, return_as_token_ids=True, temperature=0, ignore_eos=True, max_new_tokens=60)
    assert [row.tolist() for row in rows] == [greedy_ids[:60], greedy_ids[40:100], greedy_ids[7:67]]


def test_a_text_and_its_continuation_make_one_text(stories: Path):
    """The space in front of the first word was lost, because the continuation was decoded as a text of its own."""
    llm = fp32(stories)
    options = {"temperature": 0, "max_new_tokens": 10}
    beginning = "Once upon a"
    continuation = llm.generate(beginning, **options)
    assert continuation.startswith(" time, ")
    ids = [*llm.encode(beginning), *llm.generate(beginning, return_as_token_ids=True, **options).tolist()]
    assert beginning + continuation == llm.tokenizer.decode(ids)
    assert "".join(llm.generate(beginning, stream=True, **options)) == continuation


def test_no_stop_can_be_said_as_none(llm: LLM):
    assert llm.generate("hello", stop=None, **GREEDY) == llm.generate("hello", **GREEDY)


def test_benchmark_takes_every_argument_of_generate(llm: LLM):
    text, _ = llm.benchmark(prompt="hello", return_as_token_ids=True, **GREEDY)
    assert text == llm.generate("hello", **GREEDY)


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("max_new_token", "there is no option 'max_new_token' of a generation; did you mean max_new_tokens?"),
        ("temprature", "did you mean temperature?"),
        ("return_as_tokens_ids", "did you mean return_as_token_ids?"),
        ("Top_K", "did you mean top_k?"),
        ("beams", "there are adapter, cache, compile, frequency_penalty, "),
    ],
)
def test_a_misspelt_keyword_names_the_nearest(llm: LLM, keyword: str, words: str):
    """It was a TypeError of a class that the caller has never heard of."""
    wrong: dict[str, Any] = {keyword: 1}
    for call in (llm.generate, llm.complete, llm.start):
        with pytest.raises(ValueError, match=re.escape(words)):
            call("hello", **wrong)
    with pytest.raises(ValueError, match=re.escape(words)):
        llm.benchmark(prompt="hello", **wrong)
    with pytest.raises(ValueError, match=re.escape(words)):
        llm.generate("hello", stream=True, **wrong)


def test_a_system_message_among_messages_needs_a_place_too(make_checkpoint: Callable[..., Path]):
    folder = make_checkpoint()
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    llm = fp32(folder)
    question = {"role": "user", "content": "hi"}
    with pytest.raises(ValueError, match="no place for a system message"):
        llm.encode([{"role": "system", "content": "be kind"}, question])
    assert llm.encode([question]) == llm.encode("hi")


def test_repr_tells_what_is_loaded(instruct: Path):
    llm = LLM.load(instruct, distribute=None)
    assert repr(llm) == f"<LLM llama: weights not read yet, {str(instruct)!r}>"
    llm.distribute(accelerator="cpu", precision="16-true")
    count = sum(parameter.numel() for parameter in llm.model.parameters())
    assert repr(llm) == f"<LLM llama: {count:,} parameters, float16 on cpu, {str(instruct)!r}>"


def test_another_models_tokenizer_is_warned_of(make_checkpoint: Callable[..., Path], instruct: Path):
    folder = make_checkpoint(tokenizer=False, vocab_size=4000)
    with pytest.warns(TokenizerWarning, match="262 tokens and the model 4,000 ids"):
        LLM.load(folder, tokenizer_dir=instruct, distribute=None)
