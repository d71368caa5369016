"""Time and peak memory of loading a checkpoint into a ready bf16 model, beside transformers.

    python tools/bench/load.py [--shape TinyLlama-1.1B] [--rounds 7] [--folder DIR]

Each load is a process of its own, which has imported everything and read the files once (so they are in the page
cache) before it measures. Peak memory is what the process takes beyond what it had before: anonymous memory and pages
of mapped files both count, and the weights themselves are at least one of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from common import Figures, in_turn, machine

import llm_blocks
from llm_blocks import find

PROBE = """
import sys, time
from pathlib import Path
import torch
folder = sys.argv[1]
{imports}
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])
def load():
    {load}
    first = torch.zeros(1, 1, dtype=torch.int64)
    return model, first
for file in Path(folder).glob("*.safetensors"):
    file.read_bytes()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = resident()
start = time.perf_counter()
model, first = load()
loaded = time.perf_counter() - start
with torch.inference_mode():
    model(first)
ready = time.perf_counter() - start
lines = Path("/proc/self/status").read_text().splitlines()
peak = 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) - before
held = resident() - before
print(loaded, ready, peak, held)
"""

CONTESTANTS = {
    "this project": ("import llm_blocks", "model = llm_blocks.load(folder, dtype=torch.bfloat16)"),
    "transformers": (
        "from transformers import AutoModelForCausalLM, logging; logging.disable_progress_bar()",
        "model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, low_cpu_mem_usage=True)",
    ),
}
NAMES = ("loaded s", "first token s", "peak MB", "held MB")


def measure(imports: str, load: str, folder: Path) -> dict[str, float]:
    """Seconds until the model is there and until it has computed a position; megabytes at the peak and afterwards."""
    code = PROBE.format(imports=imports, load=load)
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    loaded, ready, peak, held = map(float, done.stdout.split()[-4:])
    return dict(zip(NAMES, (loaded, ready, peak / 1e6, held / 1e6), strict=True))


def table(figures: dict[str, Figures]) -> str:
    """A table in Markdown: lowest and highest of each figure, and the median ratio to transformers."""
    lines = ["| system | " + " | ".join(f"{name} | ×" for name in NAMES) + " |", "|---" * (1 + 2 * len(NAMES)) + "|"]
    for name, each in figures.items():
        cells = (f"{each.span(figure)} | {each.ratio(figure, figures['transformers']):.2f}" for figure in NAMES)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="TinyLlama-1.1B", help="a preset of the Llama family")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--stored", default="bfloat16", help="the dtype of the random weights in the file")
    parser.add_argument("--folder", type=Path, help="a checkpoint folder to load instead of random weights")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "checkpoint"
        if options.folder is None:
            config = find("llama").PRESETS[options.shape]
            llm_blocks.save(llm_blocks.new_model(config, dtype=getattr(torch, options.stored)), folder)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        config = json.loads((folder / "config.json").read_text())
        print(f"{machine()}\n{config['model_type']}, {weights / 1e6:,.0f} MB of weights in files\n")
        contestants = {name: partial(measure, *parts, folder) for name, parts in CONTESTANTS.items()}
        print(table(in_turn(contestants, options.rounds)))


if __name__ == "__main__":
    main()
