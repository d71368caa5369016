"""Hostile chat templates: nothing is executed, nothing runs long, nothing fills the memory."""

import sys
import time

import pytest

from llm_tokenizer import TokenizerError
from llm_tokenizer.files import MAX_TEMPLATE_BYTES
from llm_tokenizer.sandbox import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}]


def render(template: str, seconds: float = 0.5) -> str:
    return ChatTemplate(template, "here").render({"messages": MESSAGES}, seconds=seconds)


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ messages[0]['__class__'].x }}",
    "{{ ''|attr('__class__') }}",
    "{{ [''|attr]|map('attr', '__class__')|list }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{0.__class__.__mro__}'.format_map({'0': 1}) }}",
    "{{ '{0.__class__}'.format._method('') }}",
    "{{ ('{0.__class__}'|safe).format(1) }}",
    "{{ ('{0.__class__}'|e).format(1) }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ dict.__call__.__globals__ }}",
    "{{ dict._filled }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ (messages|map('upper')).gi_frame }}",
    "{{ (messages|map('upper')).send(none) }}",
    "{% macro m() %}{% endmacro %}{{ m.__class__ }}",
    "{% for x in messages %}{{ loop._iterable }}{% endfor %}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% extends 'x' %}",
    "{% set ns = namespace(__class__=1) %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ messages.append(1) }}",
    "{{ messages.pop() }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].clear() }}",
    "{{ 'a'.encode() }}",
    "{{ (5).to_bytes(2, 'big') }}",
    "{{ messages|pprint }}",
    "{{ 'http://x'|urlize }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_escapes_are_refused(template: str) -> None:
    with pytest.raises(TokenizerError, match=r"^here: the chat template can't be"):
        render(template)
    assert MESSAGES == [{"role": "user", "content": "hi"}]


def test_nothing_is_executed_or_opened() -> None:
    seen: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.startswith(("os.", "subprocess.", "socket.", "open", "import")):
            seen.append(event)

    templates = [
        ChatTemplate(template, "here") for template in ESCAPES if "|pprint" not in template and "urlize" not in template
    ]
    sys.addaudithook(watch)
    for template in templates:
        with pytest.raises(TokenizerError):
            template.render({"messages": MESSAGES})
    watching = False
    assert seen == []


GROW = "{{% set ns = namespace(x={0}, y={0}) %}}{{% for i in range(60) %}}{1}{{% endfor %}}{2}"
HASHES = "range(0, 2305843009213693951 * 99999, 2305843009213693951)"
GREEDY = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% set x = range(9999)|list %}" + 3 * "{% for i in x %}" + 3 * "{% endfor %}",
    "{% for i in range(99999) %}" + 10000 * "x" + "{% endfor %}",
    "{% set z %}{% for i in range(99999) %}" + 10000 * "x" + "{% endfor %}{% endset %}",
    "{% macro m(n) %}{{ m(n - 1) }}{{ m(n - 1) }}{% endmacro %}{{ m(100) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    GROW.format("'aa'", "{% set ns.x = ns.x ~ ns.x %}", "{{ ns.x }}"),
    GROW.format("'aa'", "{% set ns.x = ns.x + ns.x %}", ""),
    GROW.format("'aa'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}", ""),
    GROW.format("[1]", "{% set ns.x = [ns.x, ns.x] %}", "{{ ns.x }}"),
    GROW.format("[1]", "{% set ns.x = (ns.x, ns.x) %}", "{{ ns.x|string }}"),
    GROW.format("[1]", "{% set ns.x = {'a': ns.x, 'b': ns.x} %}", "{{ ns.x|tojson }}"),
    GROW.format("[1]", "{% set ns.x = dict(a=ns.x, b=ns.x) %}", "{{ ns.x ~ '' }}"),
    GROW.format("[1]", "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}", "{{ ns.x == ns.y }}"),
    GROW.format("[1]", "{% set ns.x = [1]|batch(9000, ns.x)|list %}", "{{ ns.x }}"),
    GROW.format("9", "{% set ns.x = ns.x * ns.x %}", "{{ ns.x }}"),
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * [1] }}",
    "{{ 10**(10**9) }}",
    "{{ ('f' * 8000000)|int(base=16) }}",
    "{{ 1.5|round(10**8, 'ceil') }}",
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ '\\t'.expandtabs(10**9) }}",
    "{{ '\\t'.expandtabs(tabsize=10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%.1000000000f'|format(1) }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ '{0:>{w}}'.format(1, w=10**9) }}",
    "{{ ('{0}' * 100000).format('a' * 100000) }}",
    "{{ ('%(a)s' * 100000) % {'a': 'b' * 100000} }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
    "{{ ('b' * 1000000).join('a' * 1000) }}",
    "{{ ('a' * 1000)|join('b' * 1000000) }}",
    "{{ 'a'|indent(10**9, true) }}",
    "{{ ('\n' * 10000)|indent(9999, true, true) }}",
    "{{ ['a']|tojson(indent=10**9) }}",
    "{{ [1]|batch(10**8, 0)|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{{ range(99999)|map('string')|map('center', 9999)|list|length }}",
    f"{{{{ {HASHES}|unique|list|length }}}}",
    f"{{{{ dict.fromkeys({HASHES})|length }}}}",
    f"{{{{ dict({HASHES}|batch(2))|length }}}}",
    "{% set l = range(99999)|batch(1)|list %}{{ l|sum(start=[])|length }}",
    "{% set a = range(99999)|list %}{% for i in a %}{% if a == a[:] %}{% endif %}{% endfor %}",
    "{{ strftime_now('%c' * 100000) }}",
    "{{ " + 500 * "(" + "1" + 500 * ")" + " }}",
    "{{ " + "1+" * 5000 + "1 }}",
    30 * "{% for a in b %}" + 30 * "{% endfor %}",
]


@pytest.mark.parametrize("template", GREEDY, ids=range(len(GREEDY)))
def test_templates_that_want_too_much_are_stopped(template: str) -> None:
    start = time.thread_time()
    with pytest.raises(TokenizerError, match=r"^here: the chat template can't be") as caught:
        render(template, seconds=0.1)
    assert time.thread_time() - start < 1.5  # the time allowed, compiling, and what one step may take beyond it
    assert len(str(caught.value)) < 700


def test_a_namespace_that_holds_itself_prints() -> None:
    assert render("{% set ns = namespace() %}{% set ns.x = [ns, ns] %}{{ ns.x }}") == "[<Namespace>, <Namespace>]"


def test_nothing_runs_while_compiling() -> None:
    """jinja2 folds constants when it compiles, in output even without its optimizer: 'a'|center(10**9) ran there."""
    ChatTemplate("{{ 'a'|center(1000000000) }}{{ 'a' * 1000000000 }}{% set x = 10 ** 1000000000 %}", "here")


def test_a_template_file_has_a_size() -> None:
    with pytest.raises(TokenizerError, match="at most"):
        ChatTemplate("x" * (MAX_TEMPLATE_BYTES + 1), "here")


def test_time_grows_with_the_messages() -> None:
    """Half a second for any conversation refused honest templates ten thousand turns on a slow machine."""
    template = "{% for i in range(99999) %}{% endfor %}"  # takes some hundredths of a second
    with pytest.raises(TokenizerError, match="it takes more than"):
        ChatTemplate(template, "here").render({"messages": []}, seconds=0.0)
    ChatTemplate(template, "here").render({"messages": ["a" * 10_000_000]}, seconds=0.0)
