"""Tables in Markdown of what was measured of systems and precisions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common import Figures

OURS = "ours"
Key = tuple[str, str]  # system and precision


@dataclass(frozen=True)
class Case:
    """A length of prompt, and the tokens decoded after it."""

    prompt: int
    new: int

    def __str__(self) -> str:
        return f"{self.prompt} + {self.new} tokens"

    def figures(self, prefill_s: float, decode_s: float, weight_bytes: int, read: float) -> dict[str, float]:
        """What one measurement says; `read` is the bytes a second of a sequential read beside it."""
        decode = self.new / decode_s
        rate = decode * weight_bytes
        values = {"prefill": self.prompt / prefill_s, "decode": decode, "rate": rate / 1e9, "share": rate / read}
        return {f"{self} {name}": value for name, value in values.items()}


def table(case: Case, measured: Mapping[Key, Figures], base: Key) -> str:
    """Lowest and highest of each figure, and medians of ratios: to the base, and of ours to each of its precision."""
    head = ["system", "precision"]
    for name in ("prefill", "decode"):
        head += [f"{name} tok/s", f"× {' '.join(base)}", "ours ÷ it"]
    rows = [[*head, "GB/s", "of read rate"]]
    for key, figures in measured.items():
        row = [*key]
        for name in (f"{case} prefill", f"{case} decode"):
            row += [figures.span(name), ratio(name, figures, measured.get(base))]
            row += [ratio(name, measured.get((OURS, key[1])), figures)]
        rows.append([*row, figures.span(f"{case} rate"), f"{figures.median(f'{case} share'):.0%}"])
    return markdown(rows)


def ratio(name: str, one: Figures | None, other: Figures | None) -> str:
    """The median of the rounds' ratios of a figure, or a dash where one of them is missing."""
    return "–" if one is None or other is None else f"{one.ratio(name, other):.2f}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table, the first as its head."""
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest])
