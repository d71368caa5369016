"""Chat templates (Jinja source) of styles that are marks around the content of each turn."""

import json
import string
from dataclasses import dataclass

from llm_finetune.rows import DataError

EOS = "{eos}"  # stands in marks for the tokenizer's end of sequence
ASKED = ("instruction", "prompt", "question")  # names for what the user says in a template of the user's
_REFUSE_PARTS = (
    "{% if message['content'] is not string %}{{ raise_exception('this style writes text alone') }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What stands before and after the content of each role; {eos} in them is the tokenizer's end of sequence.

    gap: between the assistant's mark and its answer, and the model's to write; a prompt ends before it.
    default_system: the system message where the conversation has none. start: before everything. finish: after the last
    turn where no answer is asked for. trim: white space around contents is taken off.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str] | None = None
    gap: str = ""
    default_system: str | None = None
    start: str = ""
    finish: str = ""
    trim: bool = False


def literal(text: str) -> str:
    """A Jinja expression for the text."""
    parts = [json.dumps(part) for part in text.split(EOS)]
    return " ~ eos_token ~ ".join(parts)


def marked(marks: Marks) -> str:
    """The chat template that writes these marks."""
    roles = {"user": marks.user, "assistant": (marks.assistant[0] + marks.gap, marks.assistant[1])}
    if marks.system is not None:
        roles["system"] = marks.system
    content = "message['content']" + (" | trim" if marks.trim else "")
    cases = [
        f"if message['role'] == '{role}' %}}{{{{ {literal(before)} ~ ({content}) ~ {literal(after)} }}}}"
        for role, (before, after) in roles.items()
    ]
    parts = [f"{{{{ {literal(marks.start)} }}}}"] if marks.start else []
    if marks.system is not None and marks.default_system is not None:
        default = literal(marks.system[0] + marks.default_system + marks.system[1])
        parts.append(f"{{% if messages[0]['role'] != 'system' %}}{{{{ {default} }}}}{{% endif %}}")
    known = ", ".join(roles)
    refusal = f"{{% else %}}{{{{ raise_exception('this style knows the roles {known}, not ' ~ message['role']) }}}}"
    parts += [
        "{% for message in messages %}",
        _REFUSE_PARTS,
        "{% ",
        "{% el".join(cases),
        refusal,
        "{% endif %}{% endfor %}",
    ]
    parts.append(f"{{% if add_generation_prompt %}}{{{{ {literal(marks.assistant[0])} }}}}")
    parts.append(f"{{% else %}}{{{{ {literal(marks.finish)} }}}}{{% endif %}}" if marks.finish else "{% endif %}")
    return "".join(parts)


def instruction(plain: str, with_input: str) -> str:
    """The template of Alpaca (Taori et al. 2023): a sentence, the instruction, its input if any, the response.

    plain, with_input: the first sentence without and with an input; a system message takes its place.
    """
    return (
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] ~ '\\n\\n' }}"
        f"{{% set messages = messages[1:] %}}{{% elif messages[0]['input'] %}}{{{{ {literal(with_input)} }}}}"
        f"{{% else %}}{{{{ {literal(plain)} }}}}{{% endif %}}"
        f"{{% for message in messages %}}{_REFUSE_PARTS}{{% if message['role'] == 'user' %}}"
        "{{ ('' if loop.first else '\\n\\n') ~ '### Instruction:\\n' ~ message['content'] ~ '\\n\\n' }}"
        "{% if message['input'] %}{{ '### Input:\\n' ~ message['input'] ~ '\\n\\n' }}{% endif %}"
        "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' ~ message['content'] ~ eos_token }}"
        "{% else %}{{ raise_exception('this style knows a system message at the start, user and assistant, not ' ~ "
        "message['role']) }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    )


LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' ~ messages[0]['content'] ~ '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) or message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('after a system message, turns alternate between user and assistant') }}{% endif %}"
    f"{_REFUSE_PARTS}{{% if message['role'] == 'user' %}}"
    "{{ bos_token ~ '[INST] ' ~ ((system if loop.first else '') ~ message['content']) | trim ~ ' [/INST]' }}"
    "{% else %}{{ ' ' ~ message['content'] | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)


def filled(text: str) -> tuple[str, bool]:
    """The chat template of a line such as "Q: {instruction}\\nA: ", and whether it has a place for an input.

    Fields: {instruction} (or {prompt}, {question}), {input}, {system}; doubled braces are braces. What follows the last
    field up to the end is the assistant's mark. DataError for other fields and for none.
    """
    fields = {**dict.fromkeys(ASKED, "message['content']"), "input": "(message['input'] or '')", "system": "system"}
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise DataError(f"prompt style {text!r:.80}: {error}; braces that are text are doubled") from None
    names = [name for _, name, _, _ in parts if name is not None]
    wrong = [name for name in names if name not in fields] + [spec for _, _, spec, turn in parts if spec or turn]
    if wrong or not set(names) & set(ASKED):
        raise DataError(
            f"prompt style {text!r:.80}: it needs the field {{instruction}} and may have {{input}} and {{system}}"
        )
    bare = text.rstrip(" ")
    gap = text[len(bare) :]  # words carry their space before them, so the space is the model's to write
    asked = " ~ ".join(
        json.dumps(words) + (f" ~ {fields[name]}" if name is not None else "")
        for words, name, _, _ in string.Formatter().parse(bare)
    )
    refusal = "" if "system" in names else "{{ raise_exception('this prompt style has no {system}') }}"
    template = (
        "{% if messages[0]['role'] == 'system' %}" + refusal + "{% set system = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
        f"{_REFUSE_PARTS}{{% if message['role'] == 'user' %}}{{{{ {asked} }}}}"
        "{% elif message['role'] == 'assistant' %}"
        f"{{{{ {json.dumps(gap)} ~ message['content'] ~ eos_token }}}}{{% else %}}"
        "{{ raise_exception('this style knows the roles user and assistant, not ' ~ message['role']) }}"
        "{% endif %}{% endfor %}"
    )
    return template, "input" in names
