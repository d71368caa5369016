"""Starts the systems of a comparison, each in a process of its own, and measures them in turn."""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from math import inf
from pathlib import Path
from typing import Any

import torch
from common import Figures, Gone, in_turn, read_rate
from peers import Job
from processes import Worker
from shapes import SHAPES, write_random_model
from tables import OURS, Case, Key

CONTESTANT = Path(__file__).with_name("contestant.py")
Ask = Callable[[Mapping[str, Any]], dict[str, Any]]
READ_BYTES = 2**30  # larger than the caches that a core can count on


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is compared, and how."""

    shape: str
    systems: list[str]
    cases: list[Case]
    rounds: int
    scratch: Path
    threads: int
    patience: float  # seconds that an answer may take
    gpt_fast: str | None = None
    pythons: Mapping[str, str] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """The longest prompt with its answer."""
        return max(case.prompt + case.new + 1 for case in self.cases)

    def python(self, system: str) -> str:
        """The interpreter that has the system."""
        return self.pythons.get(system) or self.pythons.get(system.removesuffix("-eager")) or sys.executable


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one precision: figures and notes of each system that could be run, and read rates in GB/s."""

    figures: dict[Key, Figures] = field(default_factory=dict)
    notes: dict[Key, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    first: dict[Key, list[int]] = field(default_factory=dict)  # the tokens that followed each prompt

    def agreement(self, key: Key) -> str:
        """How often a system's first token was that of the first system: the same weights give the same, mostly."""
        base = next(iter(self.figures))
        same = sum(a == b for a, b in zip(self.first[key], self.first[base], strict=True))
        return f"{same} of {len(self.first[key])} first tokens as {' '.join(base)}"


def compare(run: Run, precision: str) -> Outcome:
    """All systems in that precision, and this project in bf16 beside them."""
    outcome, buffer = Outcome(), torch.ones(READ_BYTES // 4)

    def read() -> float:
        rate = read_rate(buffer)
        outcome.rates.append(rate / 1e9)
        return rate

    with ExitStack() as stack:
        contestants: dict[str, Callable[[], dict[str, float]]] = {}
        for key in keys(run.systems, precision):
            try:
                worker, ready = _started(run, key, checkpoint(run, precision), stack)
            except Gone as gone:
                print(f"left out: {' '.join(key)}: {gone}", file=sys.stderr, flush=True)
            else:
                outcome.notes[key] = ready["note"]
                ask = partial(worker.ask, seconds=run.patience)
                first = outcome.first.setdefault(key, [])
                contestants[" ".join(key)] = measurement(run, ask, ready["weight_bytes"], read, first)
        figures = in_turn(contestants, run.rounds)
    outcome.figures.update({key: figures[" ".join(key)] for key in outcome.notes if " ".join(key) in figures})
    return outcome


def keys(systems: list[str], precision: str) -> list[Key]:
    """Who is compared: each system, and this project in bf16 first, which the others are measured by."""
    base = [(OURS, "bf16")] if OURS in systems else []
    return list(dict.fromkeys([*base, *((system, precision) for system in systems)]))


def checkpoint(run: Run, precision: str) -> Path:
    """The folder with the random weights, written where it isn't there yet."""
    stored = "fp32" if precision == "fp32" else "bf16"
    folder = run.scratch / f"{stored}-{run.positions}" / run.shape
    write_random_model(run.shape, folder, precision=stored, positions=run.positions)
    return folder


def measurement(
    run: Run, ask: Ask, weight_bytes: int, read: Callable[[], float], first: list[int]
) -> Callable[[], dict[str, float]]:
    """Measures every case when it is called, the read rate right before each; new prompts every time."""
    seeds, vocab = count(1), SHAPES[run.shape]["vocab_size"]

    def measure() -> dict[str, float]:
        figures, seed = dict[str, float](), next(seeds)
        for case in run.cases:
            rate = read()
            answer = ask({"prompt": case.prompt, "new": case.new, "vocab": vocab, "seed": seed})
            prefill, decode, token = checked(answer, "prefill_s", "decode_s", "first")
            figures |= case.figures(prefill, decode, weight_bytes, rate)
            first.append(int(token))
        return figures

    return measure


def checked(answer: Mapping[str, Any], *names: str) -> list[float]:
    """The numbers of those names; Gone where an answer doesn't have them."""
    values = [answer.get(name) for name in names]
    numbers = [float(value) for value in values if isinstance(value, int | float) and 0 <= value < inf]
    if len(numbers) < len(names):
        raise Gone(f"it answered {str(answer)[:80]}, which is no measurement")
    return numbers


def _started(run: Run, key: Key, folder: Path, stack: ExitStack) -> tuple[Worker, dict[str, Any]]:
    """The worker, ready; Gone with the reason where it can't be."""
    from llm_cli import models

    system, precision = key
    print(f"preparing {system} {precision}", file=sys.stderr, flush=True)
    job = Job(
        system=system,
        precision=precision,
        folder=str(folder),
        scratch=str(folder.parent),
        threads=run.threads,
        positions=run.positions,
        python=sys.executable,
        tokenizer=str(models.demo_folder()),
        path=run.gpt_fast,
    )
    env = {"OMP_NUM_THREADS": str(run.threads), "HF_HUB_OFFLINE": "1"}
    log = folder.parent / f"{system}-{precision}.log"
    worker = stack.enter_context(Worker([run.python(system), str(CONTESTANT)], log, env))
    ready = worker.ask(asdict(job), run.patience)
    if "unavailable" in ready:
        raise Gone(ready["unavailable"])
    if not {"weight_bytes", "note"} <= ready.keys():
        raise Gone(f"it answered {str(ready)[:80]} when it was to be ready")
    return worker, ready
