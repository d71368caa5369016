"""Speed and memory of LoRA finetuning beside peft and LitGPT, on the same random weights and rows, in one run.

Each system is a process of its own (trainee.py) that idles while others are measured; they train in turn, round by
round. The adapters are of rank 8 on the queries and values of all layers, without dropout, and all tokens are trained.

    python tools/bench/finetune.py [--shape llama-160m] [--systems ours,peft,litgpt] [--precision fp32,bf16,nf4]
        [--batch 4] [--length 256] [--steps 3] [--rounds 5] [--scratch DIR] [--python litgpt=/path/to/python]

Memory is the most that a process has had, from its start on: interpreter, libraries, weights and training. nf4 is QLoRA
of this project alone; what it takes beyond its weights is set against what bf16 takes beyond its own.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Figures, Gone, in_turn, machine
from generate import listed, positive
from processes import Worker
from running import checked
from shapes import SHAPES, write_random_model
from tables import OURS, markdown, ratio
from trainers import MODULES, PRECISIONS, Task

TRAINEE = Path(__file__).with_name("trainee.py")
PATIENCE = 900.0  # seconds that an answer may take
Ready = Mapping[str, Any]


def main() -> None:
    options = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the systems' processes end with this one
    scratch = tempfile.TemporaryDirectory() if options.scratch is None else nullcontext(options.scratch)
    torch.set_num_threads(options.threads)
    print(
        f"{date.today()}: {options.shape}, {options.batch} rows of {options.length} tokens, LoRA of rank 8 on q and v, "
        f"{options.rounds} rounds of {options.steps} steps"
    )
    print(machine(), flush=True)
    with scratch as place:
        for precision in options.precision:
            print(report(options, precision, Path(place).resolve()), flush=True)


def report(options: argparse.Namespace, precision: str, scratch: Path) -> str:
    """The table of a precision and the notes below it."""
    with ExitStack() as stack:
        ready: dict[str, Ready] = {}
        contestants: dict[str, Callable[[], dict[str, float]]] = {}
        losses: dict[str, list[float]] = {}
        for system in options.systems if precision != "nf4" else [OURS]:
            try:
                worker, ready[system] = _started(options, system, precision, scratch, stack)
            except Gone as gone:
                print(f"left out: {system} {precision}: {gone}", file=sys.stderr, flush=True)
            else:
                ask = partial(worker.ask, seconds=PATIENCE)
                contestants[system] = measurement(options, ask, ready[system], losses.setdefault(system, []))
        figures = in_turn(contestants, options.rounds)
    if not figures:
        return f"\n{precision}: no system could be run"
    notes = [
        f"- {system}: {ready[system]['note']}; loss {losses[system][0]:.4f}, then {losses[system][-1]:.4f} after "
        f"{len(losses[system])} steps"
        for system in figures
    ]
    return "\n".join([f"\n{precision}:\n", table(figures), "", *notes])


def table(figures: Mapping[str, Figures]) -> str:
    """Speeds, the most memory, and the medians of ours over and under each system's."""
    rows = [["system", "tok/s", "ours ÷ it", "most memory, MB", "ours ÷ it", "beyond weights and libraries, MB"]]
    ours = figures.get(OURS)
    for system, each in figures.items():
        speed = [each.span("speed"), ratio("speed", ours, each)]
        memory = [f"{each.median('peak'):,.0f}", ratio("peak", ours, each), f"{each.median('beyond'):,.0f}"]
        rows.append([system, *speed, *memory])
    return markdown(rows)


def measurement(
    options: argparse.Namespace, ask: Callable[[Mapping[str, Any]], dict[str, Any]], ready: Ready, losses: list[float]
) -> Callable[[], dict[str, float]]:
    """Trains some steps when it is called."""

    def measure() -> dict[str, float]:
        answer = ask({"steps": options.steps})
        seconds, peak = checked(answer, "seconds", "peak")
        losses.extend(float(each) for each in answer["losses"])
        beyond = peak - ready["before"] - ready["weight_bytes"]
        speed = options.steps * options.batch * options.length / seconds
        return {"speed": speed, "peak": peak / 1e6, "beyond": beyond / 1e6}

    return measure


def _started(
    options: argparse.Namespace, system: str, precision: str, scratch: Path, stack: ExitStack
) -> tuple[Worker, Ready]:
    """The worker, ready; Gone with the reason where it can't be."""
    stored = "fp32" if precision == "fp32" else "bf16"
    folder = scratch / stored / options.shape
    write_random_model(options.shape, folder, precision=stored, positions=2048)
    print(f"preparing {system} {precision}", file=sys.stderr, flush=True)
    task = Task(
        system=system,
        folder=str(folder),
        precision=precision,
        batch=options.batch,
        length=options.length,
        seed=1,
        threads=options.threads,
    )
    env = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    python = dict(options.python).get(system, sys.executable)
    worker = stack.enter_context(Worker([python, str(TRAINEE)], scratch / f"{system}-{precision}.log", env))
    ready = worker.ask(asdict(task), PATIENCE)
    if "unavailable" in ready:
        raise Gone(ready["unavailable"])
    checked(ready, "weight_bytes", "before")
    return worker, ready


def parser() -> argparse.ArgumentParser:
    """The options; lists are separated by commas."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--shape", choices=SHAPES, default="llama-160m")
    it.add_argument("--systems", type=listed(MODULES), default=list(MODULES), help=f"of {', '.join(MODULES)}")
    it.add_argument(
        "--precision", type=listed(PRECISIONS), default=list(PRECISIONS), help=f"of {', '.join(PRECISIONS)}"
    )
    it.add_argument("--batch", type=positive, default=4, help="rows of a step")
    it.add_argument("--length", type=positive, default=256, help="trained tokens of a row")
    it.add_argument("--steps", type=positive, default=3, help="in each round")
    it.add_argument("--rounds", type=positive, default=5)
    it.add_argument("--threads", type=positive, default=os.cpu_count(), help="of each system")
    it.add_argument("--python", type=assigned, action="append", default=[], metavar="SYSTEM=PYTHON")
    it.add_argument("--scratch", type=Path, metavar="DIR", help="where checkpoints are written and kept")
    return it


def assigned(text: str) -> tuple[str, str]:
    """SYSTEM=PYTHON; the path stays as it is, since a virtual environment is told by its link."""
    system, _, path = text.partition("=")
    if system not in MODULES or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not SYSTEM=PYTHON with one of {', '.join(MODULES)} and a file")
    return system, str(Path(path).absolute())


if __name__ == "__main__":
    main()
