"""Chat templates in jinja2's immutable sandbox, with every loop and operation charged to a budget.

The sandbox keeps a template from reaching Python; it doesn't keep it from running for ever or filling the memory
(nested loops, 'a' * 10**9, [a, a] thirty times over). Here the parsed template is rewritten so that loops, literals,
slices, comparisons and output go through `guards`, and operators, calls, filters and tests do so by jinja2's own hooks.
"""

import types
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from llm_tokenizer import guards
from llm_tokenizer.budget import Budget
from llm_tokenizer.errors import TokenizerError
from llm_tokenizer.files import MAX_TEMPLATE_BYTES

MAX_SECONDS = 0.5
SECONDS_PER_INPUT = 5e-7  # a unit of the messages: ten thousand turns of chat take honest templates most of the above
MAX_INPUT_UNITS = 2**28
# What rendering raises for a template's own faults: jinja2's errors and those of the values that it works with.
FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatTemplate:
    """A compiled chat template; threads may share one. `source` names it in errors."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        if len(text) > MAX_TEMPLATE_BYTES:
            raise TokenizerError(f"{source}: a chat template has at most {MAX_TEMPLATE_BYTES:,} characters.")
        try:
            self._template = _Environment().from_string(text)
        except (*FAULTS, SyntaxError) as error:
            raise TokenizerError(f"{source}: the chat template can't be compiled: {_reason(error)}") from error

    def render(self, variables: Mapping[str, Any], *, seconds: float = MAX_SECONDS) -> str:
        """The text for these variables, which must be plain JSON data. Raises TokenizerError."""
        try:
            units = Budget(MAX_INPUT_UNITS, seconds).weigh(dict(variables))
            budget = Budget(units, seconds + SECONDS_PER_INPUT * units)
            return self._template.render({**variables, guards.BUDGET: budget})
        except FAULTS as error:
            raise TokenizerError(f"{self._source}: the chat template can't be rendered: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """One sentence of bounded length: a template chooses its own messages."""
    text = " ".join(str(error)[:500].split()).rstrip(".") or type(error).__name__
    return f"{text}."


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks what the model wrote; here it is a scope and nothing more."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Namespace(Namespace):
    """jinja2's namespace without underscore names, and without printing its insides (they may hold itself)."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace holds no underscore names, such as {name!r:.80}")
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


class _Dict:
    """`dict` of a template. It fills key by key: keys made to collide would hold up Python's own in one go."""

    @pass_context
    def __call__(self, context: Context, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        pairs = args[0] if args else ()
        return self._filled(context, pairs.items() if isinstance(pairs, dict) else pairs) | kwargs

    @pass_context
    def fromkeys(self, context: Context, keys: Any, value: Any = None) -> dict[Any, Any]:
        return self._filled(context, ((key, value) for key in keys))

    def _filled(self, context: Context, pairs: Any) -> dict[Any, Any]:
        filled: dict[Any, Any] = {}
        for key, value in guards.budget_of(context).each(pairs):
            filled[key] = value
        return filled


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message)[:500])


def _strftime_now(format: str) -> str:
    if len(format) > 200:
        raise ValueError("strftime_now takes a format of at most 200 characters")
    return datetime.now().strftime(format)


@pass_context
def _output(context: Context, value: Any) -> str:
    """What {{ value }} prints; the constant text between tags comes here too."""
    budget = guards.budget_of(context)
    budget.spend(budget.weigh(value))
    return value if isinstance(value, str) else str(value)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _Generation],
            finalize=_output,
            optimized=False,  # the optimizer would run parts of the template while compiling, without a budget
            cache_size=0,
        )
        self.filters = guards.filters()
        self.tests = guards.tests()
        del self.globals["lipsum"]
        self.globals.update(
            dict=_Dict(), namespace=_Namespace, raise_exception=_raise_exception, strftime_now=_strftime_now
        )

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _Rewriter().visit(source)
        source.set_environment(self)
        return super()._generate(source, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return guards.binary(guards.budget_of(context), operator, self.binop_table[operator], left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        return None if wrapped is None else _Format(wrapped, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        # jinja2 waits until the value is used, and prints nothing for it; no honest template asks for one.
        raise SecurityError(f"{attribute!r:.80} of a {type(obj).__name__} is not for templates")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = guards.budget_of(context)
        budget.spend(1)
        method = obj._method if isinstance(obj, _Format) else obj
        if isinstance(method, types.BuiltinMethodType | types.MethodType) and _is_builtin(method.__self__):
            args = guards.method_arguments(budget, method.__self__, method.__name__, args, kwargs)
        return budget.charge(super().call(context, obj, *args, **kwargs))


class _Format:
    """str.format as the sandbox wraps it, with the method still to be seen."""

    def __init__(self, wrapped: Callable[..., str], method: Any) -> None:
        self._wrapped = wrapped
        self._method = method

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return self._wrapped(*args, **kwargs)


def _is_builtin(owner: Any) -> bool:
    return not type(owner).__module__.startswith(("jinja2", "llm_tokenizer"))


class _Rewriter(NodeTransformer):
    """Puts a guard around each part of the template that jinja2 compiles to plain Python."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _through("_each", node.iter)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return nodes.Const(node.data, lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _through("_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        return _through("_tick", node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _through("_made", node) if isinstance(node.arg, nodes.Slice) else node

    def _visit_literal(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        stored = isinstance(node, nodes.Tuple) and node.ctx != "load"
        return node if stored else _through("_made", node)

    visit_List = visit_Tuple = visit_Dict = _visit_literal


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
