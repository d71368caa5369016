"""Operators, methods and filters of a chat template, each charged before it can multiply its input."""

import json
import re
from collections.abc import Callable
from typing import Any

from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.tests import TESTS

from llm_tokenizer.budget import MAX_INT_BITS, Budget, BudgetError

BUDGET = "<budget>"  # no template can spell this name
MAX_WIDTH = 10_000  # of a padded field, of an indentation

# encode and translate lead out of text or multiply it; nothing else of str does that can't be charged below.
TEXT_METHODS = frozenset(name for name in dir(str) if name[0] != "_") - {"encode", "maketrans", "translate"}
METHODS: dict[type, frozenset[str]] = {
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    float: frozenset({"is_integer"}),
    range: frozenset({"count", "index"}),
}
# Filters for web pages: regular expressions and padding that can't be charged for beforehand; no chat needs them.
LEFT_OUT = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that this context belongs to."""
    budget = context.resolve(BUDGET)
    assert isinstance(budget, Budget)
    return budget


def _width(value: Any) -> int:
    if isinstance(value, int) and abs(value) > MAX_WIDTH:
        raise BudgetError(f"it asks for a width of {value}, over {MAX_WIDTH}")
    return abs(value) if isinstance(value, int) else 0


def _format_cost(budget: Budget, fields: int, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Upper bound for filling `fields` fields: each may print the largest argument at the largest width."""
    if any(len(digits.lstrip("0")) > 4 for digits in re.findall(r"\d+", text, re.ASCII)):
        raise BudgetError(f"it formats with a width over {MAX_WIDTH}")
    largest = max((budget.weigh(value) for value in (*args, *kwargs.values())), default=0)
    return len(text) + fields * (largest + (MAX_WIDTH if re.search(r"\d{3}", text) else 1000))


def check_percent(budget: Budget, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Charges text % args. A width given as an argument (*) is refused."""
    if re.search(r"%[^%a-zA-Z(]*\*|%\([^)]*\)[^a-zA-Z%]*\*", text):
        raise BudgetError("it formats with a width from an argument")
    budget.spend(_format_cost(budget, text.count("%"), text, args, kwargs))


def check_format(budget: Budget, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Charges text.format(...). A width given as an argument ({:{}}) is refused."""
    if re.search(r"\{[^{}]*:[^{}]*\{", text):
        raise BudgetError("it formats with a width from an argument")
    budget.spend(_format_cost(budget, text.count("{"), text, args, kwargs))


def binary(budget: Budget, operator: str, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """left operator right, charged."""
    whole = isinstance(left, int) and isinstance(right, int)
    if operator == "%" and isinstance(left, str):
        check_percent(budget, left, right if isinstance(right, tuple) else (right,), {})
    elif operator == "**" and whole and right > 0 and left.bit_length() * right > MAX_INT_BITS:
        raise BudgetError(f"it makes a number of more than {MAX_INT_BITS} bits")
    elif operator == "*" and not whole:
        times = left if isinstance(left, int) else right if isinstance(right, int) else 0
        budget.spend(max(times, 0) * max(budget.weigh(left), budget.weigh(right)))
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        budget.spend(len(left) + len(right))
    return budget.charge(function(left, right))


def method_arguments(budget: Budget, owner: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, ...]:
    """Checks and charges a call of a built-in value's method; the arguments to call it with. Raises SecurityError."""
    allowed = TEXT_METHODS if isinstance(owner, str) else METHODS.get(type(owner), frozenset())
    if name not in allowed:
        raise SecurityError(f"{name!r} of a {type(owner).__name__} is not for templates")
    if not isinstance(owner, str):
        return args
    first = args[0] if args else None
    if name in ("center", "ljust", "rjust", "zfill"):
        budget.spend(_width(first))
    elif name == "expandtabs":
        budget.spend(owner.count("\t") * _width(kwargs.get("tabsize", 8 if first is None else first)))
    elif name == "replace" and len(args) > 1 and isinstance(first, str) and isinstance(args[1], str):
        budget.spend(owner.count(first) * len(args[1]))
    elif name == "join" and args:
        return (_joinable(budget, first, owner),)
    elif name == "format":
        check_format(budget, owner, args, kwargs)
    elif name == "format_map":
        check_format(budget, owner, args, {})
    return args


def _joinable(budget: Budget, values: Any, separator: Any) -> list[Any]:
    items = list(budget.each(values))
    budget.spend(sum(map(budget.weigh, items)) + len(items) * budget.weigh(separator))
    return items


def _center(budget: Budget, value: Any, width: Any = 80) -> None:
    budget.spend(_width(width))


def _indent(budget: Budget, s: Any, width: Any = 4, *_args: Any, **_kwargs: Any) -> None:
    budget.spend((1 + str(s).count("\n")) * (len(width) if isinstance(width, str) else _width(width)))


def _format(budget: Budget, value: Any, *args: Any, **kwargs: Any) -> None:
    check_percent(budget, str(value), args, kwargs)


def _replace(budget: Budget, s: Any, old: Any, new: Any, *_args: Any, **_kwargs: Any) -> None:
    if isinstance(s, str) and isinstance(old, str):
        budget.spend(s.count(old) * budget.weigh(new))


def _batch(budget: Budget, value: Any, linecount: Any, fill_with: Any = None) -> None:
    budget.spend(_width(linecount))


def _slice(budget: Budget, value: Any, slices: Any, fill_with: Any = None) -> None:
    budget.spend(_width(slices))


def _round(budget: Budget, value: Any, precision: Any = 0, *_args: Any, **_kwargs: Any) -> None:
    if isinstance(precision, int) and abs(precision) > 100:
        raise BudgetError(f"it rounds to {precision} places")


def _printed(budget: Budget, value: Any, *_args: Any, **_kwargs: Any) -> None:
    budget.spend(3 * budget.weigh(value))


def _truncate(budget: Budget, s: Any, length: Any = 255, killwords: Any = False, end: Any = "...", *_args: Any) -> None:
    budget.spend(budget.weigh(s) + budget.weigh(end))


BEFORE: dict[str, Callable[..., None]] = {
    "batch": _batch,
    "center": _center,
    "e": _printed,
    "escape": _printed,
    "forceescape": _printed,
    "format": _format,
    "indent": _indent,
    "replace": _replace,
    "round": _round,
    "slice": _slice,
    "string": _printed,
    "tojson": _printed,
    "truncate": _truncate,
    "urlencode": _printed,
}
STEPWISE = ("groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique")


def tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without HTML escapes, as chat templates expect it of transformers."""
    if len(indent) > 16 if isinstance(indent, str) else isinstance(indent, int) and indent > 16:
        raise BudgetError("it asks for an indentation over 16")
    if separators is not None and any(len(text) > 16 for text in separators):
        raise BudgetError("it asks for a separator over 16 characters")
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _sum(budget: Budget, values: Any) -> list[Any]:
    """Python adds lists by copying the sum so far each time."""
    items = list(budget.each(values))
    budget.spend(len(items) * (1 + budget.weigh(items)))
    return items


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter or test with charges before and after; with a context argument jinja2 never runs it when compiling."""
    kind = getattr(function, "jinja_pass_arg", None)  # jinja2's own mark on its functions
    before = BEFORE.get(name)

    @pass_context
    def run(context: Context, value: Any = None, /, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.spend(1)
        if before is not None:
            before(budget, value, *args, **kwargs)
        elif name == "join":
            value = _joinable(budget, value, args[0] if args else kwargs.get("d", ""))
        elif name == "sum":
            value = _sum(budget, value)
        elif name in STEPWISE and value:
            value = budget.each(value)
        lead = {"context": (context,), "eval_context": (context.eval_ctx,), "environment": (context.environment,)}
        return budget.charge(function(*lead.get(kind.name if kind else "", ()), value, *args, **kwargs))

    return run


@pass_context
def tick(context: Context, value: Any) -> Any:
    """After a comparison: a look at the clock."""
    budget_of(context).spend(1)
    return value


@pass_context
def made(context: Context, value: Any) -> Any:
    """After a literal or a slice: the new list, tuple or dict is charged."""
    return budget_of(context).charge(value)


@pass_context
def each(context: Context, value: Any) -> Any:
    """Around what a loop goes through."""
    return budget_of(context).each(value)


@pass_context
def concat(context: Context, values: list[Any]) -> Any:
    """a ~ b ~ c."""
    budget = budget_of(context)
    budget.spend(sum(map(budget.weigh, values)))
    return "".join(map(str, values))


def filters() -> dict[str, Callable[..., Any]]:
    """The filters that templates may use, by name."""
    plain = {name: function for name, function in FILTERS.items() if name not in LEFT_OUT} | {"tojson": tojson}
    own = {"_tick": tick, "_made": made, "_each": each, "_concat": concat}
    return {name: _guarded(name, function) for name, function in plain.items()} | own


def tests() -> dict[str, Callable[..., Any]]:
    """The tests that templates may use, by name."""
    return {name: _guarded("test " + name, function) for name, function in TESTS.items()}
