"""What each quantized layer costs, in plain text: errors of outputs, and perplexity with a layer alone quantized.

Shapes: R samples that were held out, T time, C width, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

import llm_quant
from llm_quant import LayerError

NONE, NEAREST, ALL, END = "nothing", "all, to the nearest", "all", "the head"


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Of a model with something quantized: perplexity, and KL divergence in nats a token from the model as it is."""

    perplexity: float
    divergence: float


class Report:
    """Follows held-out samples (R, T) through the sections of a model in several streams, so that each is read once.

    One stream sees the model as it is, one each section quantized, one the same rounded to the nearest, and one for
    each section sees that one alone quantized. So layer i runs i + 4 times for each of these samples, and 4 R T C bytes
    are kept for each stream, besides the logits of one, 4 R T V. `drift` has for each layer how far the hidden states
    behind it are off when it and all before it are quantized: to the nearest, and with calibration.
    """

    def __init__(self, held: Tensor) -> None:
        self.held = held
        self.drift: dict[str, tuple[float, float]] = {}
        self.quality: dict[str, Quality] = {}
        self._before: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._streams = {name: list(held[:, None].unbind()) for name in (NONE, NEAREST, ALL)}

    def plain(self, part: str, model: Any, group_size: int, skip: Sequence[str]) -> None:
        """Run a section that isn't quantized yet."""
        self._before = self._streams[NONE]
        for name in [name for name in self._streams if name not in (NEAREST, ALL)]:
            self._advance(part, name, model, self._streams[name])
        nearest = llm_quant.quantize(copy.deepcopy(model), "int4", group_size=group_size, skip=skip)
        self._advance(part, NEAREST, nearest, self._streams[NEAREST])

    def quantized(self, part: str, model: Any, *, changed: bool) -> None:
        """Run the same section after its layers were quantized, those that there are."""
        self._advance(part, ALL, model, self._streams[ALL])
        name = END if part == "e" else f"layer {part.partition('-')[0]}"
        if changed:
            self._advance(part, name, model, self._before)
        if part not in ("b", "e"):
            self.drift[name] = self._distance(NEAREST), self._distance(ALL)

    def _advance(self, part: str, name: str, model: Any, states: list[Tensor]) -> None:
        """Let a stream go on with what a section gives for its states; behind the end it is measured."""
        if part != "e":
            self._streams[name] = [model(state) for state in states]
            return
        if name == NONE:
            self._logits = [model(state) for state in states]
        losses, divergences = 0.0, 0.0
        for state, plain, ids in zip(states, self._logits, self.held, strict=True):
            log_p = (plain if name == NONE else model(state))[0].float().log_softmax(-1)  # (T, V)
            losses += F.nll_loss(log_p[:-1], ids[1:]).item()
            wanted = plain[0].float().log_softmax(-1)
            divergences += F.kl_div(log_p, wanted, log_target=True, reduction="batchmean").item()
        count = len(states)
        self.quality[name] = Quality(perplexity=math.exp(losses / count), divergence=max(0.0, divergences / count))

    def _distance(self, name: str) -> float:
        """|h' - h| / |h| of the hidden states h of the model as it is and those of a stream."""
        whole = self._streams[NONE]
        errors = sum((other - one).square().sum().item() for other, one in zip(self._streams[name], whole, strict=True))
        return math.sqrt(errors / sum(state.square().sum().item() for state in whole))


def lines(title: str, errors: Mapping[str, LayerError], report: Report | None) -> list[str]:
    """The whole report: `title`, the errors of the layers by name, and what `report` measured."""
    rows = [(name, f"{error.nearest:.2%}", f"{error.calibrated:.2%}") for name, error in errors.items()]
    text = [title, "", "How far a layer's outputs are off, for the inputs that these samples give it:"]
    text += _table([("layer", "to the nearest", "calibrated"), *rows])
    if report is None:
        return text
    count, length = report.held.shape
    text += ["", f"By what is quantized, on held-out text ({count:,} x {length:,} tokens):"]
    rest = (NEAREST, ALL)
    order = [name for name in report.quality if name not in rest] + list(rest)
    rows = [(name, f"{q.perplexity:.4f}", f"{q.divergence:.5f}") for name in order for q in [report.quality[name]]]
    text += _table([("quantized", "perplexity", "KL divergence, nats a token"), *rows])
    text += ["", "How far hidden states are off behind a layer, with it and all before it quantized:"]
    rows = [(name, f"{nearest:.2%}", f"{calibrated:.2%}") for name, (nearest, calibrated) in report.drift.items()]
    return text + _table([("behind", "to the nearest", "calibrated"), *rows])


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]
