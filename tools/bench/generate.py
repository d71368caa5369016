"""Decode and prefill speed of the project beside its peers, on the same random weights, in one run.

The weights are written once, as a Hugging Face folder, and every system makes of them what it needs. Each is a process
of its own (contestant.py) that idles while others are measured; they run in turn, round by round, precision by
precision, with this project in bf16 in each. The machine's own read rate is measured right before each of them.

    python tools/bench/generate.py [--shape tinyllama-1.1b] [--systems ours,llama.cpp] [--precision bf16,int8,int4]
        [--prompt 128,1024] [--new 48] [--context 8192] [--rounds 5] [--scratch DIR]
        [--gpt_fast CLONE] [--python litgpt=/path/to/python]

Prefill is the time to the first token, decode the tokens after it. Systems that can't run here are named with the
reason. GB/s are the bytes of weights that a system reads for a token (in its own format) times its tokens a second.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import torch
from common import machine
from peers import MODULES, PRECISIONS
from running import Outcome, Run, compare
from shapes import SHAPES
from tables import OURS, Case, table


def main() -> None:
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the systems' processes end with this one
    scratch = tempfile.TemporaryDirectory() if options.scratch is None else nullcontext(options.scratch)
    with scratch as place:
        run = Run(
            shape=options.shape,
            systems=options.systems,
            cases=[Case(prompt, options.new) for prompt in (*options.prompt, *options.context)],
            rounds=options.rounds,
            scratch=Path(place).resolve() / options.shape,
            threads=options.threads,
            patience=options.patience,
            gpt_fast=options.gpt_fast and str(options.gpt_fast.resolve()),
            pythons=dict(options.python),
        )
        torch.set_num_threads(run.threads)  # for the read rate
        print(f"{date.today()}: {run.shape}, batch 1, {run.rounds} rounds, {run.threads} threads", flush=True)
        print(machine(), flush=True)
        for precision in options.precision:
            print(report(run.cases, precision, compare(run, precision)), flush=True)


def report(cases: Sequence[Case], precision: str, outcome: Outcome) -> str:
    """The tables of a precision, with what belongs to them."""
    if not outcome.figures:
        return f"\n{precision}: no system could be run"
    base = next((key for key in outcome.figures if key[0] == OURS), next(iter(outcome.figures)))
    tables = [f"\n{precision}, {case}:\n\n{table(case, outcome.figures, base)}" for case in cases]
    notes = [f"- {' '.join(key)}: {outcome.notes[key]}; {outcome.agreement(key)}" for key in outcome.figures]
    rates = f"sequential read beside them: {min(outcome.rates):.1f}–{max(outcome.rates):.1f} GB/s"
    return "\n".join([*tables, "", *notes, "", rates])


def parser() -> argparse.ArgumentParser:
    """The options; lists are separated by commas."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    it.add_argument("--systems", type=listed(MODULES), default=list(MODULES), help=f"of {', '.join(MODULES)}")
    it.add_argument(
        "--precision", type=listed(PRECISIONS), default=["bf16", "int8", "int4"], help=f"of {', '.join(PRECISIONS)}"
    )
    it.add_argument("--prompt", type=numbers, default=[128], help="tokens of the prompt, several for several tables")
    it.add_argument("--context", type=numbers, default=[], help="long prompts to decode after, as --prompt")
    it.add_argument("--new", type=positive, default=48, help="tokens decoded after the first")
    it.add_argument("--rounds", type=positive, default=5)
    it.add_argument("--threads", type=positive, default=os.cpu_count(), help="of each system")
    it.add_argument("--gpt_fast", type=Path, metavar="CLONE", help="a clone of gpt-fast")
    it.add_argument("--python", type=assigned, action="append", default=[], metavar="SYSTEM=PYTHON")
    it.add_argument("--scratch", type=Path, metavar="DIR", help="where checkpoints are written and kept")
    it.add_argument("--patience", type=float, default=1800, metavar="SECONDS", help="that one answer may take")
    return it


def listed(known: Sequence[str] | dict[str, str]) -> Callable[[str], list[str]]:
    """Reads names separated by commas."""

    def names(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}; there are {', '.join(known)}")
        return text.split(",")

    return names


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def numbers(text: str) -> list[int]:
    return [positive(each) for each in text.split(",")]


def assigned(text: str) -> tuple[str, str]:
    """SYSTEM=PYTHON; the path stays as it is, since a virtual environment is told by its link."""
    system, _, path = text.partition("=")
    if system not in MODULES or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not SYSTEM=PYTHON with one of {', '.join(MODULES)} and a file")
    return system, str(Path(path).absolute())


if __name__ == "__main__":
    main()
