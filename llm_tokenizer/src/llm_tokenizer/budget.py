"""What one rendering of a chat template may use: characters and items made, and processor time.

A template is a program from a stranger. Everything it makes is charged here, before it is made where an operation can
multiply its input, so that no single operation runs long and the clock is looked at between any two of them.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from jinja2.exceptions import TemplateRuntimeError

MAX_INT_BITS = 16384
BASE_UNITS = 2**23
UNITS_PER_INPUT = 32  # a template takes a message apart and puts it together again, a few times


class BudgetError(TemplateRuntimeError):
    """The template used up its budget."""


class Budget:
    """Units (one a character or item made) and seconds of the rendering thread's processor time.

    A value's weight is its size with everything inside counted each time it occurs: [a, a] weighs two a's. Printing or
    comparing takes time in proportion to it, and nesting can double it at each step, so it is bounded too.
    """

    def __init__(self, input_units: int, seconds: float) -> None:
        self.limit = BASE_UNITS + UNITS_PER_INPUT * input_units
        self._left = self.limit
        self._seconds = seconds
        self._end = time.thread_time() + seconds
        # Containers in a template can't change, so a weight stays true while the container is kept here.
        self._weights: dict[int, tuple[Any, int]] = {}

    def spend(self, units: int) -> None:
        """Charges units. Raises BudgetError when they or the time are used up."""
        self._left -= units
        if self._left < 0:
            raise BudgetError(f"it makes more than {self.limit:,} characters and items")
        if time.thread_time() > self._end:
            raise BudgetError(f"it takes more than {self._seconds:.1f} s")

    def weigh(self, value: Any) -> int:
        """The value's weight in units. Raises BudgetError for one that is out of all proportion."""
        if isinstance(value, str):
            return len(value) + 1
        if isinstance(value, int):
            if value.bit_length() > MAX_INT_BITS:
                raise BudgetError(f"it makes a number of more than {MAX_INT_BITS} bits")
            return value.bit_length() // 8 + 1
        if not isinstance(value, list | tuple | dict):
            return 1
        known = self._weights.get(id(value))
        if known is None:
            known = self._weights[id(value)] = (value, self._sum(value))
        return known[1]

    def _sum(self, value: list[Any] | tuple[Any, ...] | dict[Any, Any]) -> int:
        total = 1 + sum(map(self.weigh, value))
        if isinstance(value, dict):
            total += sum(map(self.weigh, value.values()))
        if total > self.limit:
            raise BudgetError(f"it makes a value of more than {self.limit:,} characters and items")
        return total

    def charge(self, value: Any) -> Any:
        """The value itself, charged for what is new in it: a text's characters, a container's own items."""
        weight = self.weigh(value)
        self.spend(1 + len(value) if isinstance(value, list | tuple | dict) else weight)
        return self.each(value, weighed=True) if isinstance(value, Iterator) else value

    def each(self, values: Iterable[Any], *, weighed: bool = False) -> Iterator[Any]:
        """The values one by one, with a charge for each; weighed ones are new and are charged in full."""
        for value in values:
            self.spend(1)
            yield self.charge(value) if weighed else value
