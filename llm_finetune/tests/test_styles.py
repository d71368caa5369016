"""Each style writes the format that its model's maker publishes, and is a chat template that serving renders alike."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llm_finetune.render import Renderer
from llm_finetune.row_kinds import read_row
from llm_finetune.rows import DataError, RowError
from llm_finetune.styles import STYLES, pick
from llm_tokenizer import Tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A"},
]


def write_tokenizer(folder: Path, **config: Any) -> Tokenizer:
    """Bytes, <s> 256, </s> 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", **config}))
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def data() -> Path:
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set: the folder of real tokenizers and templates")
    return Path(os.environ["LLM_TEST_DATA"])


def shown(tokenizer: Tokenizer, style: str, row: dict[str, Any]) -> str:
    made = Renderer(tokenizer, pick(style, tokenizer), vocab_size=300)
    (sample,) = made.samples(read_row(row, "x:1"), "x:1")
    return made.show(sample)


TASK = "Below is an instruction that describes a task"
REST = "Write a response that appropriately completes the request.\n\n"
PUBLISHED = {
    "plain": "q\n[[a</s>]]",
    "default": "q[[a</s>]]",
    "alpaca": f"{TASK}. {REST}### Instruction:\nq\n\n### Response:\n[[a</s>]]",
    "chatml": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[a<|im_end|>\n]]",
    "llama2": "<s>[INST] q [/INST][[ a </s>]]",
    "phi-2": "Instruct: q\nOutput:[[ a</s>]]",
    "phi-4": "<|im_start|>user<|im_sep|>q<|im_end|><|im_start|>assistant<|im_sep|>[[a<|im_end|>]]",
    "phi-4-mini": "<|user|>q<|end|><|assistant|>[[a<|end|></s>]]",
    "tinyllama": "<|user|>\nq</s>\n<|assistant|>\n[[a</s>\n]]",
    "falcon3": "<|user|>\nq\n<|assistant|>\n[[a</s>\n]]",
    "olmo": "</s><|user|>\nq\n<|assistant|>\n[[a</s>\n]]",
    "r1": "<s><｜User｜>q<｜Assistant｜>[[a</s>]]",
    "platypus": "### Instruction:\n\nq\n\n### Response:\n[[a</s>]]",
    "Q: {instruction}\nA: ": "Q: q\nA:[[ a</s>]]",
    "{{{prompt}}} ->": "{q} ->[[a</s>]]",
}


@pytest.mark.parametrize("style", PUBLISHED)
def test_formats(tokenizer: Tokenizer, style: str) -> None:
    assert shown(tokenizer, style, {"messages": TURNS[:2]}) == PUBLISHED[style]


@pytest.mark.parametrize("style", [*STYLES, "Q: {instruction}\nA: "])
def test_training_and_serving_of_each_style_use_the_same_ids(tokenizer: Tokenizer, style: str) -> None:
    """What is saved as chat_template.jinja gives the served model the ids that stand before each answer in training."""
    served = tokenizer.with_chat_template(pick(style, tokenizer).jinja(tokenizer))
    made = Renderer(tokenizer, pick(style, tokenizer), vocab_size=300)
    (sample,) = made.samples(read_row({"messages": TURNS}, "x:1"), "x:1")
    assert sample.ids == served.encode_chat(TURNS, add_generation_prompt=False)
    trained = [weight > 0 for weight in sample.weights]
    begun = [t for t in range(1, len(trained)) if trained[t] and not trained[t - 1]]
    assert [sample.ids[:t] for t in begun] == [served.encode_chat(TURNS[:j]) for j in (1, 3)]
    assert made.end_id == (257 if "</s>" in made.show(sample) else None)  # the only end that this vocabulary knows
    assert Renderer(served, pick(None, served), vocab_size=300).samples(
        read_row({"messages": TURNS}, "x:1"), "x:1"
    ) == [sample]


@pytest.mark.parametrize(
    ("style", "file"),
    [
        ("qwen2.5", "Qwen-Qwen2.5-7B-Instruct"),
        ("gemma", "google-gemma-2-2b-it"),
        ("phi-3", "microsoft-Phi-3.5-mini-instruct"),
    ],
)
def test_equal_to_the_published_template(data: Path, tokenizer: Tokenizer, style: str, file: str) -> None:
    published = tokenizer.with_chat_template((data / "chat_templates" / f"{file}.jinja").read_text())
    ours = tokenizer.with_chat_template(STYLES[style].jinja(tokenizer))
    for messages in (TURNS[:1], TURNS[:2], TURNS, *([] if style == "gemma" else [[SYSTEM, *TURNS]])):
        for prompt in (True, False):
            rendered = ours.render_chat(messages, add_generation_prompt=prompt)
            assert rendered == published.render_chat(messages, add_generation_prompt=prompt)


def test_llama3_but_for_the_dates_of_3_1(data: Path, tokenizer: Tokenizer) -> None:
    template = (data / "chat_templates/meta-llama-Llama-3.1-8B-Instruct.jinja").read_text()
    published = tokenizer.with_chat_template(template).render_chat([SYSTEM, *TURNS])
    dates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    ours = tokenizer.with_chat_template(STYLES["llama3"].jinja(tokenizer))
    assert ours.render_chat([SYSTEM, *TURNS]) == published.replace(dates, "")


def test_the_input_of_an_alpaca_row(tokenizer: Tokenizer) -> None:
    row = {"instruction": "q", "input": "i", "output": "a"}
    with_input = f"{TASK}, paired with an input that provides further context. {REST}"
    expected = f"{with_input}### Instruction:\nq\n\n### Input:\ni\n\n### Response:\n[[a</s>]]"
    assert shown(tokenizer, "alpaca", row) == expected
    assert shown(tokenizer, "alpaca", {**row, "system": "S"}) == expected.replace(with_input, "S\n\n")
    assert shown(tokenizer, "plain", row) == "q\n\ni\n[[a</s>]]"
    assert shown(tokenizer, "{instruction} ({input})\n", row) == "q (i)\n[[a</s>]]"


def test_system_messages(tokenizer: Tokenizer) -> None:
    row = {"messages": [SYSTEM, *TURNS[:2]]}
    assert shown(tokenizer, "llama2", row) == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nq [/INST][[ a </s>]]"
    assert shown(tokenizer, "{system} {instruction}\n", row) == "Be brief. q\n[[a</s>]]"
    for style, message in (("phi-2", "knows the roles user, assistant"), ("{prompt}\n", r"has no \{system\}")):
        with pytest.raises(RowError, match=message):
            shown(tokenizer, style, row)


def test_bos_is_written_where_the_tokenizer_puts_it(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with_bos = write_tokenizer(tmp_path, add_bos_token=True)
    assert shown(with_bos, "plain", {"messages": TURNS[:2]}) == "<s>q\n[[a</s>]]"
    assert shown(with_bos, "llama3", {"messages": TURNS[:2]}).startswith("<s><|start_header_id|>")
    assert shown(with_bos, "llama2", {"messages": TURNS[:2]}).startswith("<s>[INST]")
    assert shown(tokenizer, "plain", {"messages": TURNS[:2]}) == "q\n[[a</s>]]"


def test_without_a_name(tokenizer: Tokenizer) -> None:
    own = tokenizer.with_chat_template("{{ messages[0].content }}")
    assert pick(None, own).own
    assert pick(None, own).jinja(own) == own.chat_template
    kinds = ({"alpaca"}, {"prompt", "response"}, {"question"}, {"alpaca", "messages"}, ())
    assert [pick(None, tokenizer, each).name for each in kinds] == ["alpaca", "default", "plain", "plain", "plain"]


def test_a_template_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}[{% endif %}")
    assert shown(tokenizer, str(path), {"messages": TURNS[:2]}) == "[q][[[a]]]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("qwen25", "there is no prompt style 'qwen25'; did you mean qwen2.5"),
        ("{answer}", "needs the field"),
        ("{instruction!r}", "needs the field"),
        ("{instruction.__class__}", "needs the field"),
        ("{input} {system}", "needs the field"),
        ("{instruction", "braces that are text are doubled"),
    ],
)
def test_names_that_are_none(tokenizer: Tokenizer, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        pick(name, tokenizer)


def test_text_of_a_style_is_never_run(tokenizer: Tokenizer) -> None:
    line = "{{{{ 7 * 7 }}}} {{% raw %}} \" ' \\ {instruction}\n"
    assert shown(tokenizer, line, {"messages": TURNS[:2]}) == "{{ 7 * 7 }} {% raw %} \" ' \\ q\n[[a</s>]]"
