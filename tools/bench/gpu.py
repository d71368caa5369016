"""Decoding on a GPU, as gpt-fast's table has it: bf16, int8, int4 and speculative, in bytes beside a measured copy.

    python tools/bench/gpu.py [--shape llama-3-8b] [--precision bf16,int8,int4] [--prompt 128] [--new 200] [--rounds 3]
        [--draft llama-3.2-1b] [--tokens 5] [--budget 400] [--device cuda] [--compiler inductor]

Needs torch alone, on CUDA with Triton, and this checkout, which need not be installed. Weights are random, made on the
device. The project (its static step, compiled, recorded as a CUDA graph) and the baseline (plain_llama.py, compiled
with mode="reduce-overhead") decode greedily in turn, round by round; the bandwidth of a copy of a GiB on the device,
counted as read and written, is measured before each. GB/s are the bytes of weights that a step multiplies by its
steps a second (the cache left out), as gpt-fast counts them.

With random weights no draft is ever right, so the speculative line tells what a round costs (the draft's steps and one
check by the model) and what follows for two bounds, all proposals right and none; between them lies any real pair.
Contestants that the budget of seconds leaves no time for are left out, and named. `--device cpu --shape tiny
--compiler none` tries the script itself.
"""

import argparse
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import in_place
import torch
from shapes import SHAPES

in_place.use()
THETA = 500_000.0
COPY_BYTES = 2**30
SLOTS = 1024


def main() -> None:
    options = parser().parse_args()
    from gpu_systems import Bench

    bench = Bench(options, time.monotonic() + options.budget)
    print(f"{date.today()}: {options.shape}, batch 1, {options.prompt} + {options.new} tokens", flush=True)
    print(f"{device_line(bench.device)}\n", flush=True)
    print(HEAD, flush=True)
    for precision in options.precision:
        for line in bench.compare(precision):
            print(line, flush=True)
    if options.draft:
        for line in bench.speculation(options.precision[0]):
            print(line, flush=True)
    for note in bench.notes:
        print(f"\n{note}", flush=True)


HEAD = "\n".join(
    [
        "| system | precision | prefill tok/s | decode tok/s | GB/s | of copy | copy GB/s | ÷ baseline |",
        "|---|---|---|---|---|---|---|---|",
    ]
)


def device_line(device: torch.device) -> str:
    """What is measured on, and the versions that matter."""
    if device.type != "cuda":
        return f"cpu, torch {torch.__version__}"
    facts = torch.cuda.get_device_properties(device)
    memory = facts.total_memory / 2**30
    return f"{facts.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}, torch {torch.__version__}"


def copy_rate(device: torch.device, size: int = COPY_BYTES) -> float:
    """Bytes a second that a copy within the device reads and writes: the best of ten."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    best = min(timed(device, lambda: target.copy_(source)) for _ in range(10))
    return 2 * source.nbytes / best


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds until the device has done it."""
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def settle(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parser() -> argparse.ArgumentParser:
    """The options; lists are separated by commas."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    it.add_argument("--precision", type=precisions, default=["bf16", "int8", "int4"])
    it.add_argument("--prompt", type=int, default=128)
    it.add_argument("--new", type=int, default=200, help="tokens decoded after the first")
    it.add_argument("--rounds", type=int, default=3)
    it.add_argument("--draft", choices=[*SHAPES, ""], default="llama-3.2-1b", help="shape; empty leaves it out")
    it.add_argument("--tokens", type=int, default=5, help="proposals of a round")
    it.add_argument("--budget", type=float, default=400, help="seconds after which nothing new is begun")
    it.add_argument("--device", default="cuda")
    it.add_argument("--compiler", choices=["inductor", "none"], default="inductor")
    return it


def precisions(text: str) -> list[str]:
    """`bf16,int4` as a list."""
    found = text.split(",")
    if any(each not in ("bf16", "int8", "int4") for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of bf16, int8 and int4")
    return found


if __name__ == "__main__":
    main()
