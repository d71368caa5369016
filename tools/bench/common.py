"""What the benchmarks share: the machine's own figures and contestants timed in turn.

Machines are shared and drift, so a ratio is taken between neighbours in time, within one round, and the median of the
rounds' ratios counts; the lowest and highest of each contestant are printed beside it.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch


def machine() -> str:
    """One line on the processor, its cores, its memory, its instruction sets and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = facts.get("flags", "").split()
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{facts.get('model name', platform.machine())}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{memory:.0f} GiB, {' '.join(sets) or 'no vector extensions listed'}; torch {torch.__version__}, "
        f"transformers {version('transformers')}, Python {platform.python_version()}"
    )


def read_rate(buffer: torch.Tensor) -> float:
    """Bytes per second of one sequential read of the buffer by all of torch's threads."""
    start = time.perf_counter()
    buffer.sum()
    return buffer.nbytes / (time.perf_counter() - start)


class Gone(RuntimeError):
    """A contestant can't be measured any more; the message says why in one line."""


@dataclass
class Figures:
    """What was measured of one contestant: a list of values for each named figure, one a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, measured: dict[str, float]) -> None:
        for name, value in measured.items():
            self.values.setdefault(name, []).append(value)

    def span(self, name: str) -> str:
        """The lowest and highest of a figure over the rounds."""
        return f"{min(self.values[name]):,.1f}–{max(self.values[name]):,.1f}"

    def median(self, name: str) -> float:
        """The median of a figure over the rounds."""
        return statistics.median(self.values[name])

    def ratio(self, name: str, other: "Figures") -> float:
        """The median over the rounds of this contestant's figure divided by the other's."""
        return statistics.median(a / b for a, b in zip(self.values[name], other.values[name], strict=True))


def in_turn(contestants: Mapping[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, Figures]:
    """Run every contestant once a round, after one round that does not count; every second round in reverse order.

    One that raises Gone is left out of the rest and of the result, and told on stderr, where rounds are counted.
    """
    figures = {name: Figures() for name in contestants}
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        for name in list(figures) if number % 2 else list(reversed(figures)):
            try:
                measured = contestants[name]()
            except Gone as gone:
                print(f"left out: {name}: {gone}", file=sys.stderr, flush=True)
                del figures[name]
                continue
            if number:
                figures[name].add(measured)
    return figures
