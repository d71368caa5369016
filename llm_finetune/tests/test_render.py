"""Ids of samples are those that serving makes, and what is trained is what the served model is to write."""

import itertools
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from llm_finetune.batches import Sample
from llm_finetune.render import Renderer, pieces
from llm_finetune.row_kinds import read_row
from llm_finetune.rows import Row, RowError
from llm_finetune.styles import STYLES, pick
from llm_tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Hi 漢字?"},
    {"role": "assistant", "content": 'Hello, "you" <b>\n\n 😀'},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]
TEMPLATES = (
    "HuggingFaceTB-SmolLM3-3B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "google-gemma-2-2b-it",
    "meta-llama-Llama-3.1-8B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Bytes, <s> 256, </s> 257, <|im_start|> 258, <|im_end|> 259."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def data() -> Path:
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set: the folder of real tokenizers and templates")
    return Path(os.environ["LLM_TEST_DATA"])


@cache
def load(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


def chat(messages: list[dict[str, Any]], **more: Any) -> Row:
    return read_row({"messages": messages, **more}, "x:1")


def renderer(tokenizer: Tokenizer, style: str | None = None, **options: Any) -> Renderer:
    return Renderer(tokenizer, pick(style, tokenizer), vocab_size=300_000, **options)


def shown(made: Renderer, row: Row) -> list[str]:
    return [made.show(sample) for sample in made.samples(row, "x:1")]


def starts(sample: Sample) -> list[int]:
    """Places where a run of trained tokens begins."""
    trained = [weight > 0 for weight in sample.weights]
    return [t for t in range(1, len(trained)) if trained[t] and not trained[t - 1]]


@pytest.mark.parametrize(
    ("name", "vocabulary"),
    [
        (name, vocabulary)
        for name in TEMPLATES
        for vocabulary in ("falcon", "gpt2", "mistral-v1/tokenizer.model", "neox", "phi2", "phi3", "qwen2")
        # Mistral's needs an eos_token, which these two folders don't name.
        if not ("Mistral" in name and vocabulary in ("falcon", "neox"))
    ],
)
def test_ids_are_those_of_serving(data: Path, name: str, vocabulary: str) -> None:
    """What stands before each answer is what encode_chat gives the served model, and the answer follows it."""
    template = (data / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer = load(data / "tokenizers" / vocabulary).with_chat_template(template)
    made = renderer(tokenizer)
    for messages in (TURNS[:2], TURNS, [SYSTEM, *TURNS]):
        if messages[0] is SYSTEM and "gemma" in name:
            continue  # it knows no system message
        samples = made.samples(chat(messages), "x:1")
        answers = [j for j, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = [tokenizer.encode_chat(messages[:j], add_generation_prompt=True) for j in answers]
        begun = [sample.ids[:start] for sample in samples for start in starts(sample)]
        if "Llama" in name and vocabulary in ("falcon", "gpt2", "neox", "phi2"):
            # Such vocabularies cut "\n\n" otherwise when a word follows than at the end of a text.
            assert [tokenizer.decode(ids) for ids in begun] == [tokenizer.decode(ids) for ids in prompts]
        else:
            assert begun == prompts
        if len(samples) == 1 and "R1" not in name:  # its generation prompt opens a tag that whole conversations lack
            assert samples[0].ids == tokenizer.encode_chat(messages, add_generation_prompt=False)
        marked = "".join(made.show(sample) for sample in samples)
        assert all(f"{messages[j]['content']}" in part for j, part in zip(answers, _inside(marked), strict=True))


def _inside(marked: str) -> list[str]:
    return [part.split("]]")[0] for part in marked.split("[[")[1:]]


def test_ids_are_those_of_transformers(data: Path) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(data / "tokenizers/qwen2")
    for name in ("Qwen-Qwen2.5-7B-Instruct", "meta-llama-Llama-3.1-8B-Instruct", "HuggingFaceTB-SmolLM3-3B"):
        template = (data / "chat_templates" / f"{name}.jinja").read_text()
        made = renderer(load(data / "tokenizers/qwen2").with_chat_template(template))
        theirs = reference.apply_chat_template(TURNS, chat_template=template, tokenize=True, return_dict=False)
        (sample,) = made.samples(chat(TURNS), "x:1")
        assert sample.ids == theirs


def test_golden_masks(small: Tokenizer) -> None:
    tokenizer = small.with_chat_template(CHATML)
    turns = [*TURNS[2:], {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, TURNS[0]]
    user, other = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>user\nx<|im_end|>\n"
    last = "<|im_start|>assistant\n[[y<|im_end|>\n]]"
    assert shown(renderer(tokenizer), chat(turns)) == [f"{user}[[4<|im_end|>\n]]{other}{last}"]
    assert shown(renderer(tokenizer, loss="last"), chat(turns)) == [f"{user}4<|im_end|>\n{other}{last}"]
    (everything,) = renderer(tokenizer, loss="all").samples(chat(turns), "x:1")
    assert everything.weights == [1.0] * len(everything.ids)
    assert everything.ids == tokenizer.encode_chat(turns, add_generation_prompt=False)


PARTS = st.characters(codec="utf-8") | st.sampled_from(["<|im_end|>", "<s>", "\n", " "])
CONTENTS = st.lists(st.lists(PARTS, min_size=1).map("".join).filter(str.strip), min_size=2, max_size=6)


@settings(deadline=None)
@given(contents=CONTENTS, first=st.sampled_from(["user", "assistant"]))
def test_whatever_is_said_the_answers_alone_are_trained(small: Tokenizer, contents: list[str], first: str) -> None:
    roles = ["user", "assistant"] * 4
    turns = list(zip(roles[first == "assistant" :], contents, strict=False))
    tokenizer = small.with_chat_template(CHATML)
    row = chat([{"role": role, "content": content} for role, content in turns])
    (sample,) = renderer(tokenizer).samples(row, "x:1")
    runs = itertools.groupby(zip(sample.ids, sample.weights, strict=True), key=lambda pair: pair[1] > 0)
    trained = [tokenizer.decode([token for token, _ in run], skip_special=False) for weight, run in runs if weight]
    lead = "<|im_start|>assistant\n"  # nothing stands before an answer that comes first, so its mark is its own
    expected = [f"{content}<|im_end|>\n" for role, content in turns if role == "assistant"]
    assert trained == ([lead + expected[0], *expected[1:]] if first == "assistant" else expected)


def test_flags_and_weights_of_messages(small: Tokenizer) -> None:
    tokenizer = small.with_chat_template(CHATML)
    first, second = {**TURNS[3], "train": False}, {**TURNS[3], "weight": 0.5}
    row = chat([TURNS[2], first, {**TURNS[2], "train": True}, second])
    (sample,) = renderer(tokenizer).samples(row, "x:1")
    turn = "<|im_start|>user\n2+2?<|im_end|>\n"
    answer = "4<|im_end|>\n"
    assert (
        renderer(tokenizer).show(sample)
        == f"{turn}<|im_start|>assistant\n{answer}[[{turn}]]<|im_start|>assistant\n[[{answer}]]"
    )
    assert set(sample.weights) == {0.0, 0.5, 1.0}
    assert sample.weights[-3:] == [0.5] * 3
    (everything,) = renderer(tokenizer, loss="all").samples(row, "x:1")
    assert [everything.weights.count(weight) for weight in (0.0, 0.5)] == [3, 3]
    with pytest.raises(RowError, match="no turn is to be trained"):
        renderer(tokenizer).samples(chat([TURNS[2], first]), "x:1")


def test_a_token_across_the_border_is_trained(data: Path) -> None:
    tokenizer = load(data / "tokenizers/qwen2").with_chat_template(CHATML)
    (sample,) = renderer(tokenizer).samples(chat([TURNS[2], {"role": "assistant", "content": "\n\nA"}]), "x:1")
    assert sample.ids == tokenizer.encode_chat(
        [TURNS[2], {"role": "assistant", "content": "\n\nA"}], add_generation_prompt=False
    )
    assert renderer(tokenizer).show(sample).endswith("<|im_start|>assistant[[\n\n\nA<|im_end|>\n]]")


def test_a_prefix_cut_otherwise_alone_costs_no_token_of_the_prompt(data: Path) -> None:
    """GPT-2 makes one token of " unlikely"; what lies wholly before the answer isn't trained."""
    tokenizer = load(data / "tokenizers/gpt2").with_chat_template(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ ' un' }}{% endif %}{% endfor %}"
    )
    (sample,) = renderer(tokenizer).samples(chat([TURNS[2], {"role": "assistant", "content": "likely so"}]), "x:1")
    assert renderer(tokenizer).show(sample) == "2+2?[[ unlikely so]]"


def test_answers_apart_where_the_template_rewrites_them(data: Path) -> None:
    """Qwen3 writes an empty thought before the last answer alone, so each turn is served after another text."""
    template = (data / "chat_templates/Qwen-Qwen3-0.6B.jinja").read_text()
    first, second = shown(renderer(load(data / "tokenizers/qwen2").with_chat_template(template)), chat(TURNS))
    assert first.endswith("assistant\n[[<think>\n\n</think>\n\n" + TURNS[1]["content"] + "<|im_end|>\n]]")
    assert TURNS[1]["content"] + "<|im_end|>\n<|im_start|>user\n2+2?" in second
    assert second.endswith("assistant\n[[<think>\n\n</think>\n\n4<|im_end|>\n]]")


def test_a_tag_that_the_prompt_opens_is_not_opened_twice(data: Path) -> None:
    template = (data / "chat_templates/deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja").read_text()
    made = renderer(load(data / "tokenizers/qwen2").with_chat_template(template))
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"}
    expected = "<｜User｜>2+2?<｜Assistant｜><think>\n[[hm\n</think>\n\n4<｜end▁of▁sentence｜>]]"
    assert shown(made, chat([TURNS[2], thought])) == [expected]


def test_text_and_ids(small: Tokenizer) -> None:
    made = renderer(small)
    assert shown(made, read_row({"text": "ab"}, "x:1")) == ["<s>[[ab</s>]]"]
    (sample,) = made.samples(read_row({"input_ids": [65, 66, 67], "labels": [-100, -100, 67]}, "x:1"), "x:1")
    assert (sample.ids, sample.weights) == ((65, 66, 67), (0.0, 0.0, 1.0))
    with pytest.raises(RowError, match="id 260 in a vocabulary of 260"):
        Renderer(small, STYLES["plain"], vocab_size=260).samples(read_row({"input_ids": [1, 260]}, "x:1"), "x:1")
    with pytest.raises(RowError, match="no token has a weight"):
        made.samples(read_row({"input_ids": [1, 2], "weights": [1, 0]}, "x:1"), "x:1")
    with pytest.raises(RowError, match="lone surrogates"):
        made.samples(read_row({"text": "a\ud800"}, "x:1"), "x:1")


def test_pairs(small: Tokenizer) -> None:
    made = renderer(small.with_chat_template(CHATML))
    prompt = [SYSTEM, *TURNS[2:], TURNS[2]]
    sides = {key: [*prompt, {"role": "assistant", "content": key}] for key in ("chosen", "rejected")}
    chosen, rejected = made.pair(read_row(sides, "x:1"), "x:1")
    assert made.show(chosen).endswith("2+2?<|im_end|>\n<|im_start|>assistant\n[[chosen<|im_end|>\n]]")
    assert made.show(rejected) == made.show(chosen).replace("chosen", "rejected")
    with pytest.raises(RowError, match="no pair"):
        made.pair(chat(TURNS), "x:1")
    with pytest.raises(RowError, match="a pair of answers"):
        made.samples(read_row(sides, "x:1"), "x:1")


def test_a_refusal_of_the_template_names_the_row(data: Path) -> None:
    template = (data / "chat_templates/google-gemma-2-2b-it.jinja").read_text()
    made = renderer(load(data / "tokenizers/qwen2").with_chat_template(template))
    with pytest.raises(RowError, match=r"^a\.json:7: .*System role not supported") as caught:
        made.samples(chat([SYSTEM, *TURNS]), "a.json:7")
    assert caught.value.reason == "the tokenizer or its chat template refuses it"


def test_shown_samples_cant_steer_a_terminal(small: Tokenizer) -> None:
    assert shown(renderer(small), read_row({"text": "a\x1b[2Jé\r\n\u009b"}, "x:1")) == [
        "<s>[[a\\x1b[2Jé\\x0d\n\\x9b</s>]]"
    ]


def test_tool_calls_reach_the_template(data: Path) -> None:
    template = (data / "chat_templates/Qwen-Qwen2.5-7B-Instruct.jinja").read_text()
    made = renderer(load(data / "tokenizers/qwen2").with_chat_template(template))
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    tools = [{"type": "function", "function": {"name": "f"}}]
    (text,) = shown(made, chat([TURNS[0], call, {"role": "tool", "content": "7"}, TURNS[3]], tools=tools))
    assert _inside(text) == [
        '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call><|im_end|>\n',
        "4<|im_end|>\n",
    ]
    assert '<tools>\n{"type": "function"' in text


def test_pieces_lose_nothing() -> None:
    sample = Sample(ids=list(range(10)), weights=[float(i) for i in range(10)])
    for places in (1, 2, 3, 4, 8, 9, 50):
        cut = pieces(sample, places)
        assert all(2 <= len(piece.ids) <= places + 1 for piece in cut)
        assert [token for piece in cut for token in piece.ids[1:]] == list(range(1, 10))
        assert [token for piece in cut for token in piece.ids[:-1]] == list(range(9))
        assert [weight for piece in cut for weight in piece.weights[1:]] == [float(i) for i in range(1, 10)]


def test_what_ends_a_turn(small: Tokenizer, data: Path) -> None:
    assert renderer(small.with_chat_template(CHATML)).end_id == 259
    assert renderer(small, "plain").end_id == 257
    assert renderer(small.with_chat_template("{% for m in messages %}{{ m.content }}\n{% endfor %}")).end_id is None
    template = (data / "chat_templates/microsoft-Phi-3.5-mini-instruct.jinja").read_text()
    assert renderer(load(data / "tokenizers/phi3").with_chat_template(template)).end_id == 32007
