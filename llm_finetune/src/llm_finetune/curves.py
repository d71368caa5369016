"""Curves of a run's numbers: SVG of our own, and PNG by matplotlib."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 14, 38  # what is around the curves
MOST = 800  # points of a curve: more than its columns of pixels are not seen
LARGEST, SMALLEST = 1e100, 1e-100  # numbers beyond are left out, or 0

Point = tuple[float, float]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points by step under a name; `dotted` marks each point."""

    name: str
    points: Sequence[Point]
    dotted: bool = False


def points(history: Iterable[Mapping[str, float]], column: str) -> list[Point]:
    """Step and value of the rows that have a finite number in that column."""
    found = ((float(row["step"]), float(row[column])) for row in history if column in row)
    return [(x, y if abs(y) > SMALLEST else 0.0) for x, y in found if math.isfinite(y) and abs(y) < LARGEST]


def losses(history: Sequence[Mapping[str, float]]) -> list[Curve]:
    """The loss of the rows that are trained on, and that of the validation rows."""
    held = Curve(name="validation loss", points=points(history, "val_loss"), dotted=True)
    return [Curve(name="loss", points=points(history, "loss")), held]


def rates(history: Sequence[Mapping[str, float]]) -> list[Curve]:
    """The learning rate."""
    return [Curve(name="learning rate", points=points(history, "learning_rate"))]


def svg(curves: Sequence[Curve]) -> str:
    """The curves in one frame, as an `svg` element with classes for its colours; empty where there is no point."""
    curves = [Curve(name=each.name, points=thinned(each.points), dotted=each.dotted) for each in curves if each.points]
    if not curves:
        return ""
    xs = span(x for curve in curves for x, _ in curve.points)
    ys = span(y for curve in curves for _, y in curve.points)
    name = escape(" and ".join(curve.name for curve in curves))
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name} by step">']
    parts += [_horizontal(y, place) for y in ticks(ys) for _, place in placed([(xs[0], y)], xs, ys)]
    parts += [_vertical(x, place) for x in ticks(xs, whole=True) for place, _ in placed([(x, ys[0])], xs, ys)]
    parts += [_drawn(curve, number, xs, ys) for number, curve in enumerate(curves)]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    return "\n".join([*parts, "</svg>"])


def png(history: Sequence[Mapping[str, float]]) -> bytes:
    """The same as an image. ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    for number, curves in enumerate((losses(history), rates(history))):
        axes = figure.add_subplot(2, 1, number + 1)
        for curve in curves:
            x, y = zip(*curve.points, strict=True) if curve.points else ((), ())
            axes.plot(x, y, "o-" if curve.dotted else "-", label=curve.name, markersize=4)
        axes.set_xlabel("step")
        axes.legend()
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def thinned(given: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most so many points: of neighbours the lowest and the highest, in their order."""
    if len(given) <= most:
        return list(given)
    size = math.ceil(2 * len(given) / most)
    groups = [range(start, min(start + size, len(given))) for start in range(0, len(given), size)]
    ends = [{min(group, key=lambda i: given[i][1]), max(group, key=lambda i: given[i][1])} for group in groups]
    return [given[i] for each in ends for i in sorted(each)]


def span(values: Iterable[float]) -> Range:
    """From the least to the most, made wider where they are the same number but for rounding."""
    known = list(values)
    low, high = min(known), max(known)
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    margin = 0.05 * size or 1.0
    return low - margin, high + margin


def placed(given: Iterable[Point], xs: Range, ys: Range) -> list[Point]:
    """Where the points are in the frame, whose y goes down."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    return [
        (
            round(LEFT + wide * (x - xs[0]) / (xs[1] - xs[0]), 1),
            round(TOP + high * (ys[1] - y) / (ys[1] - ys[0]), 1),
        )
        for x, y in given
    ]


def ticks(given: Range, *, whole: bool = False) -> list[float]:
    """Round numbers within a range, about five of them."""
    rough = (given[1] - given[0]) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    step = max(1.0, step) if whole else step
    return [number * step for number in range(math.ceil(given[0] / step), math.floor(given[1] / step) + 1)]


def _drawn(curve: Curve, number: int, xs: Range, ys: Range) -> str:
    """A curve and its name above the frame."""
    found = placed(curve.points, xs, ys)
    line = " ".join(f"{x},{y}" for x, y in found)
    dots = found if curve.dotted or len(found) == 1 else []
    label = f'<text class="name{number}" x="{LEFT + 130 * number}" y="9">{escape(curve.name)}</text>'
    marks = "".join(f'<circle class="dot{number}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in dots)
    return f'{label}<polyline class="line{number}" points="{line}"/>{marks}'


def _horizontal(value: float, y: float) -> str:
    line = f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.4g}</text>'


def _vertical(value: float, x: float) -> str:
    low = HEIGHT - BOTTOM
    line = f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{low}"/>'
    return f'{line}<text x="{x}" y="{low + 16}" text-anchor="middle">{value:,.0f}</text>'
