"""One model with its weights in several forms, each measured on the same text beside the same base."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_cli.evaluation import Evaluation, describe_weights, measure
from llm_cli.output import write_notice
from llm_cli.placement import settle_threads
from llm_cli.progress import token_bar
from llm_cli.quantizing import check_scheme, is_quantized, lost

if TYPE_CHECKING:
    from llm_cli.llm import LLM
    from llm_cli.measured_text import Text

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What is measured and what it is compared with, neither with its weights read. `base` is None for no other."""

    model: LLM
    base: LLM | None
    precision: str | None = None
    base_precision: str | None = None


def read_schemes(text: str) -> list[str]:
    """`none,int8,int4` as a list, each once. Raises ValueError for what is no scheme."""
    schemes = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for scheme in schemes:
        if scheme != NONE:
            check_scheme(scheme)
    return schemes


def compare(sides: Sides, text: Text, schemes: Sequence[str]) -> tuple[list[Evaluation], Evaluation | None]:
    """Measure the model in each scheme, loaded one after the other, and the base, which stays loaded.

    A model that is its own base is compared in every scheme but "none", which is the base. Raises ValueError for a
    scheme that the model can't have.
    """
    same = sides.base is sides.model and sides.base_precision == sides.precision
    todo = [scheme for scheme in schemes if not (same and scheme == NONE)]
    found = dict[str, Evaluation]()
    base = None
    for scheme in todo or [NONE]:
        llm = _loaded(sides.model, sides.precision, scheme)
        if sides.base is not None and base is None and todo:
            base = _loaded(sides.base, sides.base_precision, NONE)
        if not found:
            _settle(llm, base)
        weights = describe_weights(llm.model, None if scheme == NONE else scheme)
        with token_bar(f"measuring {weights}", text.scored) as progress:
            found[scheme] = replace(measure(llm, text, against=base, progress=progress), weights=weights)
        del llm  # before the next one is read
    compared = next(iter(found.values())).base
    return [found[scheme] if scheme in found else _own(compared) for scheme in schemes], compared


def _own(base: Evaluation | None) -> Evaluation:
    assert base is not None, "a scheme that isn't measured is the base"
    return base


def _loaded(unloaded: LLM, precision: str | None, scheme: str) -> LLM:
    """A model whose weights are read, from one whose are not."""
    llm = copy(unloaded)
    llm.distribute(precision=precision, quantize=None if scheme == NONE else scheme)
    return llm


def _settle(llm: LLM, base: LLM | None) -> None:
    """What holds for the whole run, told and set once: threads as the larger of both needs them."""
    settle_threads(llm.model if base is None else base.model)
    told = lost(llm)
    if told is not None:
        write_notice(told)
    if base is None and is_quantized(llm.model):
        write_notice("the weights are quantized; --against CHECKPOINT, with that which they were made from, tells more")
