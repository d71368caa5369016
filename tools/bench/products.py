"""Matrix products of this project alone beside torch's own in bf16, on the matrices of a model's layers.

    python tools/bench/products.py [--shape tinyllama-1.1b] [--rows 1,2,4,8,128,1024] [--rounds 5]

Each matrix is there in as many copies as fill a GiB, and a product goes through copies that no cache holds any more, as
decoding does. For each number of rows there are the milliseconds of a product, the weights read in GB/s, the share of
a sequential read beside it, how long it takes beside one row, and how fast it is beside torch's product in bf16.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import date
from itertools import cycle

import torch
from common import Figures, in_turn, machine, read_rate
from generate import numbers, positive
from shapes import SHAPES, matrices
from tables import markdown
from torch import nn

import llm_quant

KINDS = ("torch bf16", "bf16", "int8", "int4")
COPIES_BYTES = 2**30  # of one matrix: more than the caches
PASS_S = 0.2  # what one measurement lasts, about


def layer(kind: str, outputs: int, inputs: int) -> nn.Module:
    """A random linear layer of that kind; ValueError where it can't be."""
    linear = nn.Linear(inputs, outputs, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    if kind == "torch bf16":
        return linear
    if llm_quant.level() is None:
        raise ValueError(f"no kernels: {llm_quant.reason()}")
    whole = nn.Sequential(linear)
    return (llm_quant.accelerate(whole) if kind == "bf16" else llm_quant.quantize(whole, kind))[0]  # type: ignore


def copies(kind: str, outputs: int, inputs: int) -> list[nn.Module]:
    """As many copies as fill COPIES_BYTES."""
    one = layer(kind, outputs, inputs)
    count = 1 + COPIES_BYTES // nbytes(one)
    if kind not in llm_quant.SCHEMES:
        return [deepcopy(one) for _ in range(count)]
    # A prepared weight is a view of a chunk of its arena, and a copy would be of the whole chunk.
    canonical, arena = one.unprepare(), llm_quant.Arena()  # type: ignore
    return [deepcopy(canonical).prepare(arena) for _ in range(count)]  # type: ignore


def nbytes(module: nn.Module) -> int:
    return sum(each.nbytes for each in (*module.parameters(), *module.buffers()))


@torch.inference_mode()
def seconds(layers: Iterator[nn.Module], x: torch.Tensor) -> float:
    """Of one product, over as many as take PASS_S."""
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < PASS_S:
        next(layers)(x)
        done += 1
    return (time.perf_counter() - start) / done


def measurement(
    kind: str, size: tuple[int, int], rows: list[int], buffer: torch.Tensor
) -> Callable[[], dict[str, float]]:
    """Times the products for every number of rows, the read rate before each."""
    made = copies(kind, *size)
    layers, weight = cycle(made), nbytes(made[0])

    def measure() -> dict[str, float]:
        figures = dict[str, float]()
        for count in rows:
            read, x = read_rate(buffer), torch.randn(count, size[1]).to(torch.bfloat16)
            took = seconds(layers, x)
            figures |= {f"{count} ms": took * 1e3, f"{count} GB/s": weight / took / 1e9}
            figures[f"{count} share"] = weight / took / read
            figures[f"{count} of one"] = took * 1e3 / figures[f"{rows[0]} ms"]
        return figures

    return measure


def table(measured: dict[str, Figures], rows: list[int]) -> str:
    """Medians: milliseconds, GB/s, the share of the read rate, the time beside one row's, the speed beside torch's."""
    lines = [["kind", "rows", "ms", "GB/s", "of read rate", f"time ÷ {rows[0]} row", "speed × torch bf16"]]
    for kind, figures in measured.items():
        for count in rows:
            of_one = figures.median(f"{count} of one")
            torchs = measured["torch bf16"].ratio(f"{count} ms", figures)
            values = [f"{figures.median(f'{count} {name}'):.2f}" for name in ("ms", "GB/s")]
            share = f"{figures.median(f'{count} share'):.0%}"
            lines.append([kind, str(count), *values, share, f"{of_one:.2f}", f"{torchs:.2f}"])
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--rows", type=numbers, default=[1, 2, 4, 8, 128, 1024])
    parser.add_argument("--rounds", type=positive, default=5)
    options = parser.parse_args()
    print(f"{date.today()}: {options.shape}, {options.rounds} rounds\n{machine()}", flush=True)
    buffer = torch.ones(COPIES_BYTES // 4)
    for name, size in matrices(options.shape).items():
        contestants: dict[str, Callable[[], dict[str, float]]] = {}
        for kind in KINDS:
            try:
                contestants[kind] = measurement(kind, size, options.rows, buffer)
            except (ImportError, ValueError) as error:
                print(f"left out: {kind}: {error}", flush=True)
        print(f"\n{name}: {size[0]} outputs, {size[1]} inputs\n", flush=True)
        print(table(in_turn(contestants, options.rounds), options.rows), flush=True)


if __name__ == "__main__":
    main()
