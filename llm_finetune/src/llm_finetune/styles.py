"""Prompt styles: how a conversation is written as text. Each is a chat template, so that serving can write the same.

The formats are those that the models' makers publish (the default system messages too); alpaca, flan and longform are
those of the data sets, platypus, stablecode, freewilly2, falcon, phi-1 and phi-2 those of the models' cards.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_finetune.rows import DataError
from llm_finetune.templates import EOS, LLAMA2, Marks, filled, instruction, marked
from llm_tokenizer import Tokenizer
from llm_tokenizer.files import MAX_TEMPLATE_BYTES, read_text


@dataclass(frozen=True, kw_only=True)
class Style:
    """A way to write conversations. `template` is Jinja source without the BOS that `bos` decides on.

    bos: True writes it first, False doesn't, None does what the tokenizer does before a text.
    takes_input: there is a place of its own for the input of an Alpaca row; else it follows the instruction.
    own: the checkpoint's own template, which is beside the checkpoint already.
    """

    name: str
    template: str
    bos: bool | None = None
    takes_input: bool = False
    own: bool = False

    def jinja(self, tokenizer: Tokenizer) -> str:
        """The whole chat template for this tokenizer, as chat_template.jinja holds it."""
        bos = tokenizer.encode("")[:1] == [tokenizer.bos_id] if self.bos is None else self.bos
        return ("{{ bos_token }}" if bos else "") + self.template


_ROLES = ("system", "user", "assistant")


def _marked(name: str, *, bos: bool | None = False, **marks: Any) -> Style:
    return Style(name=name, template=marked(Marks(**marks)), bos=bos)


def _chatml(name: str, default_system: str | None = None) -> Style:
    roles = {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in _ROLES}
    return _marked(name, **{**roles, "default_system": default_system})


def _separated(name: str) -> Style:
    roles: dict[str, Any] = {role: (f"<|im_start|>{role}<|im_sep|>", "<|im_end|>") for role in _ROLES}
    return _marked(name, **roles)


def _tagged(name: str, open: str, close: str, **more: Any) -> Style:
    """Marks that are the role's name in a tag."""
    roles = {role: (open.format(role), close) for role in _ROLES}
    return _marked(name, **{**roles, **more})


def _card(name: str, before: str, mark: str, *, gap: str = "") -> Style:
    return _marked(name, bos=None, user=(before, ""), assistant=(mark, EOS), gap=gap)


def _instruction(name: str, plain: str, with_input: str) -> Style:
    return Style(name=name, template=instruction(plain, with_input), takes_input=True)


_TASK = "Below is an instruction that describes a task"
_PLAIN = f"{_TASK}. Write a response that appropriately completes the request.\n\n"
_WITH_INPUT = (
    f"{_TASK}, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)
_QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_QWQ = "You are a helpful and harmless assistant. You are Qwen developed by Alibaba. You should think step-by-step."
_TABLE = (
    _card("default", "", ""),
    _card("plain", "", "\n"),
    _instruction("alpaca", _PLAIN, _WITH_INPUT),
    _instruction("flan", _PLAIN, _PLAIN),
    _instruction("longform", _WITH_INPUT, _WITH_INPUT),
    _chatml("chatml"),
    _chatml("qwen2.5", _QWEN),
    _chatml("qwen2.5-math", "Please reason step by step, and put your final answer within \\boxed{}."),
    _chatml("qwq", _QWQ),
    _chatml("qwen3"),
    _chatml("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
    _chatml("salamandra"),
    _tagged("llama3", "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", bos=True, trim=True),
    Style(name="llama2", template=LLAMA2, bos=False),
    Style(name="codellama", template=LLAMA2, bos=False),
    _marked(
        "gemma",
        bos=True,
        trim=True,
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
    ),
    _tagged("phi-3", "<|{}|>\n", "<|end|>\n", finish=EOS),
    _tagged("phi-4-mini", "<|{}|>", "<|end|>", finish=EOS),
    _tagged(
        "phi-4-mini-reasoning",
        "<|{}|>",
        "<|end|>",
        finish=EOS,
        default_system="Your name is Phi, an AI math expert developed by Microsoft.",
    ),
    _separated("phi-4"),
    _separated("phi-4-reasoning"),
    _tagged("tinyllama", "<|{}|>\n", f"{EOS}\n"),
    _tagged("stablelm-zephyr", "<|{}|>\n", f"{EOS}\n"),
    _marked(
        "falcon3",
        system=("<|system|>\n", "\n"),
        user=("<|user|>\n", "\n"),
        assistant=("<|assistant|>\n", f"{EOS}\n"),
    ),
    _marked(
        "olmo",
        start=EOS,
        system=("<|system|>\n", "\n"),
        user=("<|user|>\n", "\n"),
        assistant=("<|assistant|>\n", f"{EOS}\n"),
    ),
    _marked(
        "stablelm-alpha",
        system=("<|SYSTEM|>", ""),
        user=("<|USER|>", ""),
        assistant=("<|ASSISTANT|>", EOS),
    ),
    _marked(
        "r1",
        bos=True,
        system=("", ""),
        user=("<｜User｜>", ""),
        assistant=("<｜Assistant｜>", EOS),
    ),
    _marked(
        "freewilly2",
        bos=None,
        system=("### System:\n", "\n\n"),
        user=("### User:\n", "\n\n"),
        assistant=("### Assistant:\n", f"{EOS}\n\n"),
        default_system="This is a system prompt, please behave and help the user.",
    ),
    _card("platypus", "### Instruction:\n\n", "\n\n### Response:\n"),
    _card("stablecode", "###Instruction\n", "###Response\n"),
    _card("falcon", "", "\nAnswer:", gap=" "),
    _card("phi-1", "", "\n\nAnswer:", gap=" "),
    _card("phi-2", "Instruct: ", "\nOutput:", gap=" "),
)
STYLES: Mapping[str, Style] = {style.name: style for style in _TABLE}


def pick(name: str | None, tokenizer: Tokenizer, kinds: Collection[str] = ()) -> Style:
    """The style to write conversations in. DataError for a name that there is none of.

    name: one of `STYLES`; a line such as "Q: {instruction}\\nA: "; a .jinja file; None for the checkpoint's own chat
    template, and where it has none, what suits the `kinds` of rows: alpaca for Alpaca's, the prompt and its completion
    with nothing between for those, else a line for each turn ("plain").
    """
    if name is None:
        if tokenizer.chat_template is not None:
            return Style(name="chat template", template=tokenizer.chat_template, bos=False, own=True)
        kinds = set(kinds)
        return STYLES[
            "alpaca" if kinds == {"alpaca"} else "default" if kinds and kinds <= {"prompt", "response"} else "plain"
        ]
    if name in STYLES:
        return STYLES[name]
    if name.endswith(".jinja"):
        return Style(name=name, template=read_text(Path(name), MAX_TEMPLATE_BYTES), bos=False)
    if "{" in name:
        template, takes_input = filled(name)
        return Style(name=name, template=template, takes_input=takes_input)
    near = difflib.get_close_matches(name, STYLES, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(f"there is no prompt style {name!r}; {hint}there are: {', '.join(sorted(STYLES))}")
