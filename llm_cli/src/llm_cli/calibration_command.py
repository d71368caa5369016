"""The options of `llm quantize` that begin with --calibrate: what they ask for, and what is said of the outcome."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llm_quant
from llm_cli.calibrating import Calibration
from llm_cli.calibration_report import Report, lines
from llm_cli.calibration_text import LENGTH, SAMPLES, cut, read_ids
from llm_cli.output import write_lines
from llm_cli.source import find_tokenizer
from llm_sepweight.atomic import atomic_file

if TYPE_CHECKING:
    from llm_cli.quantized_folder import Plan


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options as they were given, None for each that wasn't; `json` says that stdout has an object."""

    file: Path | None
    method: llm_quant.Method | None
    samples: int | None
    length: int | None
    report: str | None
    json: bool

    def check(self, plan: Plan) -> None:
        """ValueError for options that don't go together, and for numbers that don't fit the model."""
        options = {"method": self.method, "samples": self.samples, "length": self.length, "report": self.report}
        alone = next((name for name, value in options.items() if value is not None), None)
        if self.file is None:
            if alone is not None:
                raise ValueError(f"--{alone} is for calibration; add --calibrate FILE, or leave --{alone} out")
            return
        if plan.form.bits == 8:
            raise ValueError(
                "int8 is nearly exact without calibration, which would change next to nothing; leave --calibrate out, "
                "or take int4"
            )
        self._check_numbers(plan.source.config.max_positions)
        self._check_report()

    def _check_numbers(self, most: int) -> None:
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"--samples must be at least 1, not {self.samples}")
        if self.length is not None and not 2 <= self.length <= most:
            raise ValueError(f"--length must be from 2 to {most:,}, the context of this model, not {self.length}")

    def _check_report(self) -> None:
        if self.report == "-" and self.json:
            raise ValueError("stdout has room for --report - or for --json, which has the figures too; leave one out")
        if self.report in (None, "-"):
            return
        if os.path.lexists(self.report):
            raise ValueError(f"'{self.report}' exists already and isn't overwritten; give --report another name")
        if not Path(self.report).parent.is_dir():
            raise ValueError(f"there is no folder '{Path(self.report).parent}' for --report; make it, or name another")

    def calibration(self, plan: Plan) -> Calibration | None:
        """What the options ask for, None without --calibrate. ValueError for a text or a model that can't serve."""
        if self.file is None:
            return None
        source = plan.source
        tokenizer = find_tokenizer(source.path)
        if tokenizer is None:
            raise ValueError(
                f"'{source.path}' has no tokenizer, which --calibrate needs; put its files beside the weights"
            )
        ids = read_ids(self.file, tokenizer, vocab_size=source.config.vocab_size)
        found = cut(
            ids,
            samples=self.samples or SAMPLES,
            length=self.length or min(LENGTH, source.config.max_positions),
            report=self.report is not None,
            prefix=tokenizer.encode(""),
        )
        assert plan.form.group_size is not None
        targets = llm_quant.targets(source.skeleton)
        single = {path for path, layer in targets.items() if not isinstance(layer, llm_quant.Stacked)}
        return Calibration(
            source=source,
            layers=single & set(plan.layers.values()),
            group_size=plan.form.group_size,
            method=self.method or "gptq",
            ids=found.ids,
            report=None if self.report is None else Report(found.held),
        )

    def told(self, calibration: Calibration | None) -> list[str]:
        """A line on how much it gained."""
        if calibration is None or not calibration.errors:
            return []
        nearest, calibrated = overall(calibration)
        return [
            f"{_how(calibration)}: outputs of layers err by {calibrated:.1%}, rounded to the nearest by {nearest:.1%}"
        ]

    def write_report(self, plan: Plan, calibration: Calibration | None) -> None:
        """Write the report where it was asked for."""
        if calibration is None or self.report is None:
            return
        text = lines(
            f"{plan.form}, {_how(calibration)} of {self.file}", _by_name(plan, calibration), calibration.report
        )
        if self.report == "-":
            write_lines(*text, "")
        else:
            with atomic_file(self.report) as file:
                file.write("".join(f"{line}\n" for line in text).encode())

    def in_json(self, plan: Plan, calibration: Calibration | None) -> dict[str, Any] | None:
        """The same for --json."""
        if calibration is None:
            return None
        samples, length = calibration.ids.shape
        errors = {
            name: {"nearest": e.nearest, "calibrated": e.calibrated} for name, e in _by_name(plan, calibration).items()
        }
        found = {"method": calibration.method, "samples": samples, "length": length, "errors": errors}
        if calibration.report is not None:
            found["quality"] = {name: asdict(quality) for name, quality in calibration.report.quality.items()}
        return found


def overall(calibration: Calibration) -> tuple[float, float]:
    """The root mean squares over all layers of their errors: rounded to the nearest, and with calibration."""
    errors = list(calibration.errors.values())
    squares = (sum(e.nearest**2 for e in errors), sum(e.calibrated**2 for e in errors))
    return math.sqrt(squares[0] / len(errors)), math.sqrt(squares[1] / len(errors))


def _how(calibration: Calibration) -> str:
    samples, length = calibration.ids.shape
    return f"by {calibration.method} with {samples:,} samples of {length:,} tokens"


def _by_name(plan: Plan, calibration: Calibration) -> dict[str, llm_quant.LayerError]:
    """The errors by Hugging Face's names."""
    names = {path: name for name, path in plan.layers.items()}
    return {names[path]: error for path, error in calibration.errors.items()}
