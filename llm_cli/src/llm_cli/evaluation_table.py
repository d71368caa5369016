"""Evaluations as a table for people and as plain values for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llm_cli.output import human_bytes

if TYPE_CHECKING:
    from llm_cli.evaluation import Evaluation
    from llm_cli.measured_text import Text
    from llm_sampler import Divergence, Perplexity

BASIC = ("weights", "perplexity", "bits/byte")
COMPARED = ("KL mean", "KL 99 %", "KL max", "same top", "loss change")
COSTS = ("tokens/s", "memory")


def table(rows: Sequence[Evaluation], base: Evaluation | None) -> str:
    """A line for each, the base first; with the columns of a comparison where there is one."""
    shown = rows if base is None or any(row is base for row in rows) else [base, *rows]
    compared = base is not None
    cells = [[*BASIC, *(COMPARED if compared else ()), *COSTS]]
    cells += [_cells(row, compared=compared, is_base=row is base) for row in shown]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "".join(_line(line, widths) + "\n" for line in cells)


def as_dict(text: Text, rows: Iterable[Evaluation], base: Evaluation | None) -> dict[str, Any]:
    """What --json says, with null for what is infinite or unknown; sizes in bytes, losses and divergences in nats."""
    return {
        "tokens": text.scored,
        "bytes": text.num_bytes,
        "window": text.window,
        "stride": text.stride,
        "prefix": text.prefix,
        "results": [_plain(row) for row in rows],
        "base": None if base is None else _plain(base),
    }


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join((first, *rest)).rstrip()


def _cells(row: Evaluation, *, compared: bool, is_base: bool) -> list[str]:
    score = row.perplexity
    bits = score.bits_per_byte
    cells = [
        row.weights + (" (base)" if is_base else ""),
        _with_error(score.perplexity, score.perplexity_error),
        "-" if bits is None else f"{bits:.4f}",
    ]
    if compared:
        cells += _divergence(row.divergence) if row.divergence else ["-"] * len(COMPARED)
    return [*cells, f"{row.tokens_per_second:,.0f}", human_bytes(row.weight_bytes)]


def _divergence(found: Divergence) -> list[str]:
    return [
        _with_error(found.mean, found.standard_error),
        f"{found.percentile_99:.4f}",
        f"{found.max:.3f}",
        f"{100 * found.same_top:.2f} %",
        _with_error(found.nll_change, found.nll_change_error, sign="+"),
    ]


def _with_error(value: float, error: float, sign: str = "") -> str:
    """A value and its standard error, both to the second digit of the error."""
    digits = 4
    if math.isfinite(error) and error > 0:
        digits = min(9, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:{sign}.{digits}f} ± {error:.{digits}f}"


def _plain(row: Evaluation) -> dict[str, Any]:
    found = row.divergence
    return {
        "weights": row.weights,
        **_perplexity(row.perplexity),
        "divergence": None
        if found is None
        else _finite({k: v for k, v in asdict(found).items() if k not in ("model", "base")}),
        "tokens_per_second": row.tokens_per_second,
        "weight_bytes": row.weight_bytes,
    }


def _perplexity(score: Perplexity) -> dict[str, Any]:
    names = ("perplexity", "perplexity_error", "nll", "standard_error", "bits_per_byte")
    return _finite({name: getattr(score, name) for name in names})


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
