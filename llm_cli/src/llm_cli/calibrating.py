"""int4 fitted to a text, a section of a model at a time: the beginning, each layer, the end.

Shapes: S samples, T time, C width. Samples go through one by one, as ids (1, T) or hidden states (1, T, C) in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import llm_blocks
import llm_quant
from llm_blocks.meta import without_storage
from llm_cli.calibration_report import Report
from llm_cli.checkpoints import Checkpoint


@dataclass(kw_only=True)
class Calibration:
    """Gives the layers of a checkpoint as int4 that is fitted to `ids` (S, T).

    `layers` are the paths in the model of those to quantize. In memory are a section in fp32, a Hessian, the hidden
    states of all samples (4 S T C bytes), and the int4 of layers that nobody has asked for yet. `errors` and `report`
    are complete once the last layer was taken.
    """

    source: Checkpoint
    layers: Collection[str]
    group_size: int
    method: llm_quant.Method
    ids: Tensor
    report: Report | None = None
    errors: dict[str, llm_quant.LayerError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._states: list[Tensor] = list(self.ids[:, None].unbind())
        self._sections = self._run()
        self._ready: dict[str, llm_quant.Int4] = {}

    def take(self, path: str) -> llm_quant.Int4:
        """A layer; the sections up to its own are run first. Each can be taken once."""
        while path not in self._ready:
            self._ready |= next(self._sections)
        return self._ready.pop(path)

    def finish(self) -> None:
        """Run what is left, for the report."""
        for _ in self._sections if self.report is not None else ():
            pass

    def _run(self) -> Iterator[Mapping[str, llm_quant.Int4]]:
        """The sections one after the other, and the quantized layers of each."""
        yield self._section("b")
        for layer in range(self.source.config.num_layers):
            yield self._section(f"{layer}-{layer + 1}")
        if self.report is not None or any(path.startswith("end.") for path in self.layers):
            yield self._section("e")

    @torch.no_grad()
    def _section(self, part: str) -> Mapping[str, llm_quant.Int4]:
        model = _load(self.source, part)
        targets = llm_quant.targets(model)
        linear = [path for path in targets if path in self.layers]
        skip = [path for path in targets if path not in self.layers]
        if self.report is not None:
            self.report.plain(part, model, self.group_size, skip)
        self.errors |= llm_quant.calibrate(
            model, self._states, method=self.method, group_size=self.group_size, skip=skip, prepare=False
        )
        if self.report is not None:
            self.report.quantized(part, model, changed=bool(linear))
        for index, state in enumerate(self._states if part != "e" else ()):
            self._states[index] = model(state)
        return {path: model.get_submodule(path).weight for path in linear}


def _load(source: Checkpoint, part: str) -> Any:
    """A section of a checkpoint in fp32, in which sums of small errors are exact enough."""
    with without_storage():
        model = llm_blocks.find(source.config.model_type).Model(source.config, part)
    llm_blocks.fill(model, source.weights, dtype=torch.float32)
    return model.eval()
