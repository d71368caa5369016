"""Templates of real models and small ones render as transformers renders them."""

import itertools
from pathlib import Path
from typing import Any

import jinja2
import pytest

from llm_tokenizer import Tokenizer, TokenizerError

NAMES = (
    "HuggingFaceTB-SmolLM3-3B",
    "Qwen-Qwen2.5-7B-Instruct",
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "google-gemma-2-2b-it",
    "meta-llama-Llama-3.1-8B-Instruct",
    "microsoft-Phi-3.5-mini-instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Today\'s weather, <now> & "here", in °C',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich"}}}
SPELLED = {"id": "abcdefgh2", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
HELLO = {"role": "user", "content": "  Hello, <|im_end|> 漢字 😀\n"}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi <b>there</b>"}
SYSTEM = {"role": "system", "content": "Be brief. /no_think "}
RESULT = {"role": "tool", "name": "weather", "tool_call_id": "abcdefgh1", "content": '{"c": 7}'}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [HELLO],
    "system": [SYSTEM, HELLO],
    "turns": [SYSTEM, HELLO, ANSWER, HELLO],
    "ends-with-assistant": [HELLO, ANSWER],
    "tool-call": [HELLO, {"role": "assistant", "content": "", "tool_calls": [CALL]}, RESULT],
    "tool-call-none": [HELLO, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, ANSWER],
    "tool-call-text": [HELLO, {"role": "assistant", "content": None, "tool_calls": [SPELLED]}, RESULT],
    "two-calls": [HELLO, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}, RESULT, RESULT],
    "reasoning": [HELLO, {"role": "assistant", "content": "4", "reasoning_content": "2+2"}, HELLO],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
}


@pytest.fixture
def make(folder: Any):
    """A tokenizer whose folder has this template."""

    def build(template: str) -> Tokenizer:
        folder.tokenizer().json("tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
        return Tokenizer.load(folder.text("chat_template.jinja", template).path)

    return build


def ours(tokenizer: Tokenizer, messages: Any, tools: Any, prompt: bool, variables: dict[str, Any]) -> str | None:
    """Our text, None for an error."""
    try:
        return tokenizer.render_chat(messages, tools=tools, add_generation_prompt=prompt, **variables)
    except TokenizerError:
        return None


def theirs(template: str, messages: Any, tools: Any, prompt: bool, variables: dict[str, Any]) -> str | None:
    """The text of transformers, None for an error."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    # apply_chat_template drops None values before this function; one template here asks for them.
    keep = "content'] is none" in template
    given = [{key: value for key, value in message.items() if value is not None or keep} for message in messages]
    variables = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": prompt, **variables}
    try:
        return utils.render_jinja_template([given], tools=tools, chat_template=template, **variables)[0][0]
    except (jinja2.TemplateError, TypeError):
        return None


VARIABLES: list[dict[str, Any]] = [
    {},
    {"enable_thinking": False},
    {"date_string": "1 May 2025", "builtin_tools": ["x"], "tools_in_user_message": False},
]


@pytest.mark.parametrize("name", NAMES)
def test_real_templates_equal_transformers(data: Path, make: Any, name: str) -> None:
    template = (data / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer, rendered = make(template), 0
    choices = itertools.product(CONVERSATIONS.values(), (None, [WEATHER]), (True, False), VARIABLES)
    for messages, tools, prompt, variables in choices:
        text = ours(tokenizer, messages, tools, prompt, variables)
        assert text == theirs(template, messages, tools, prompt, variables)
        rendered += text is not None
    assert rendered >= 18


def test_deepseek_tool_calls_need_content_none(data: Path, make: Any) -> None:
    template = (data / "chat_templates" / "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja").read_text()
    text = make(template).render_chat(CONVERSATIONS["tool-call-text"])
    assert "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather" in text


FEATURES = [
    (
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}"
        "{{ i }}{% endfor %}"
    ),
    (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"
        "{{ loop.revindex0 }}{% endfor %}"
    ),
    (
        "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.nextitem is defined }}"
        "{% else %}none{% endfor %}"
    ),
    (
        "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for c in 'abc' %}"
        "{{ loop.cycle(1, 2) }}{% endfor %}"
    ),
    "{% generation %}{% set x = 1 %}{{ messages[0].content }}{% endgeneration %}{{ x is defined }}",
    (
        "{% set ns = namespace(a=1, b=[]) %}{% for m in messages %}{% set ns.b = ns.b + [m.role] %}"
        "{% endfor %}{{ ns.b|join(', ') }}"
    ),
    (
        "{{ {'b': '<&>\u00e9', 'a': [1, 2.5, none, true]}|tojson }}{{ [1, {'k': 2}]|tojson(indent=2) }}"
        "{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}"
    ),
    (
        "{% macro f(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{{ f(1) }}"
        "{% call f(3) %}in{% endcall %}"
    ),
    "{{ messages|map(attribute='role')|list }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}",
    (
        "{{ 'a,b'.split(',')[-1] ~ 1 ~ none }}{{ '%s-%03d' % ('x', 7) }}{{ '{:>4}|{a}'.format(1, a=2) }}"
        "{{ 'x'.center(5) }}"
    ),
    (
        "{{ dict(a=1, **{'b': 2}) }}{{ dict([(1, 2)]) }}{{ dict.fromkeys('ab', 0) }}{{ (1, 2) + (3,) }}"
        "{{ 7 // 2 }}{{ 2 ** 8 }}"
    ),
    (
        "{{ [3, 1, 2]|sort|reverse|list }}{{ [[1], [2]]|sum(start=[]) }}{{ 'abc'|replace('b', 'xx')|upper }}"
        "{{ 'a\nb'|indent(3) }}"
    ),
    (
        "{{ [1, 2, 3, 4, 5]|batch(2, 0)|list }}{{ [1, 2, 3]|slice(2)|list }}{{ none|map('upper')|list }}"
        "{{ nothing|list }}"
    ),
    "{{ ('<a>'|e) + '<b>' }}{{ ('<a>'|safe) ~ '<b>' }}{{ 'abc'[::-1] }}{{ messages[:1][0].role }}{{ 3 if false }}",
    (
        "{% set t %}  x{{ 1 }}\n{% endset %}[{{ t }}]{% filter upper %}abc{% endfilter %}{{ 'a' in 'abc' }}"
        "{{ 1 < 2 < 3 }}"
    ),
    (
        "{%- for x in [[1, [2]], [3]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}"
        "{{ tools is none }}{{ documents is none }}"
    ),
    "line\n    {% if true %}\n  kept\n    {% endif %}\n{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}\n",
]


@pytest.mark.parametrize("template", FEATURES)
def test_features_equal_transformers(make: Any, template: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    for messages in ([HELLO], [SYSTEM, HELLO, ANSWER]):
        expected = utils.render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
        assert make(template).render_chat(messages) == expected[0][0]


def test_the_template_comes_from_the_file_before_the_config(folder: Any) -> None:
    folder.tokenizer().json("tokenizer_config.json", {"chat_template": "config"})
    assert Tokenizer.load(folder.path).chat_template == "config"
    folder.json("chat_template.json", {"chat_template": "json"})
    assert Tokenizer.load(folder.path).render_chat([HELLO]) == "json"
    folder.text("chat_template.jinja", "jinja")
    assert Tokenizer.load(folder.path).render_chat([HELLO]) == "jinja"
    tokenizer = Tokenizer.load(folder.text("additional_chat_templates/tool_use.jinja", "tools").path)
    assert tokenizer.render_chat([HELLO]) == "jinja"
    assert tokenizer.render_chat([HELLO], tools=[WEATHER]) == "tools"
    assert {path.name for path in tokenizer.files} >= {"chat_template.jinja", "tool_use.jinja", "tokenizer.json"}


def test_named_templates_of_the_config(folder: Any) -> None:
    listed = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    folder.tokenizer().json("tokenizer_config.json", {"chat_template": listed})
    assert Tokenizer.load(folder.path).render_chat([HELLO], tools=[WEATHER]) == "t"
    folder.json("tokenizer_config.json", {"chat_template": [{"name": "rag", "template": "r"}]})
    with pytest.raises(TokenizerError, match="rag"):
        Tokenizer.load(folder.path).render_chat([HELLO])


def test_another_template_with_the_same_special_tokens(make: Any) -> None:
    tokenizer = make("{{ messages[0].content }}")
    other = tokenizer.with_chat_template("{{ bos_token }}{{ messages[0].role }}{{ eos_token }}")
    assert other.encode_chat([HELLO]) == [256, *tokenizer.encode("user"), 257]
    assert other.chat_template != tokenizer.chat_template
    assert tokenizer.render_chat([HELLO]) == HELLO["content"]
    with pytest.raises(TokenizerError, match="the given chat template"):
        tokenizer.with_chat_template("{% for %}").render_chat([HELLO])


def test_bos_is_never_doubled(folder: Any) -> None:
    folder.tokenizer().json("tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True})
    with_bos = Tokenizer.load(folder.text("chat_template.jinja", "{{ bos_token }}{{ messages[0].content }}").path)
    assert with_bos.encode("a")[0] == with_bos.bos_id
    ids = with_bos.encode_chat([{"role": "user", "content": "a"}])
    assert ids == with_bos.encode("a")
    assert ids.count(with_bos.bos_id or -1) == 1


def test_special_tokens_spelled_in_a_message_are_parsed_as_in_transformers(make: Any) -> None:
    ids = make("{{ messages[0].content }}").encode_chat([{"role": "user", "content": "a</s>"}])
    assert ids[-1] == 257


@pytest.mark.parametrize("messages", [[], "hi", {"role": "user"}, ["hi"], [{"content": "x"}], [{"role": 1}]])
def test_messages_that_are_no_conversation(make: Any, messages: Any) -> None:
    with pytest.raises(TokenizerError, match=r"role|at least one"):
        make("{{ messages[0].role }}").render_chat(messages)


def test_only_plain_data_reaches_a_template(make: Any) -> None:
    with pytest.raises(TokenizerError, match="JSON"):
        make("x").render_chat([HELLO], documents=[Path("/")])
    with pytest.raises(TokenizerError, match="no chat template"):
        make("x")._chat.__class__({}, {}, Path("there")).render([HELLO], None, True, {})


def test_a_refusal_of_the_template_is_one_sentence(make: Any) -> None:
    with pytest.raises(TokenizerError, match=r"must alternate"):
        make("{{ raise_exception('roles\nmust alternate') }}").render_chat([HELLO])
    with pytest.raises(TokenizerError, match=r"can't be compiled"):
        make("{% if %}").render_chat([HELLO])


def test_a_long_conversation_stays_within_the_budget(data: Path, make: Any) -> None:
    template = (data / "chat_templates" / "Qwen-Qwen3-0.6B.jinja").read_text()
    messages = 500 * [{"role": "user", "content": 1000 * "word "}, {"role": "assistant", "content": 1000 * "text "}]
    assert len(make(template).render_chat(messages)) > 5_000_000
