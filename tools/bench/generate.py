"""Decode and prefill speed of the project beside `transformers`, on the same random weights, in one run.

The weights are written once, as a Hugging Face folder, and every contestant loads that folder and generates greedily
through its public call for users. The time of N + 1 new tokens less the time of one is the decoding of N tokens; the
time of one is the prefill. Contestants run in turn (common.py); the machine's own read rate is measured in each round.

    python tools/bench/generate.py [--shape tinyllama-1.1b|llama-160m] [--dtype bf16|fp32] [--rounds 5]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
from common import Figures, in_turn, machine, read_rate

SHAPES = {
    "tinyllama-1.1b": {
        "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 2048,
    },
    "llama-160m": {
        "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 12, "max_position_embeddings": 2048,
    },
}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Generate = Callable[[list[int], int], None]  # prompt ids, new tokens


def write_random_model(shape: str, dtype: torch.dtype, folder: Path) -> int:
    """Write a random Llama of that shape; the bytes of weights that one decoded token reads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig.from_dict({**SHAPES[shape], "tie_word_embeddings": False})
    model: Any = LlamaForCausalLM(config)
    model.to(dtype)
    model.save_pretrained(folder)
    embedding = model.get_input_embeddings().weight  # one row of it is read a token
    return sum(weight.nbytes for weight in model.parameters()) - embedding.nbytes


def ours(folder: Path, precision: str) -> Generate:
    """This project, through the LLM class."""
    from llm_cli import LLM

    llm = LLM.load(folder, distribute=None)
    llm.distribute(precision=precision)

    def generate(ids: list[int], new: int) -> None:
        llm.complete([ids], max_new_tokens=new, temperature=0, ignore_eos=True)

    return generate


def transformers(folder: Path, dtype: torch.dtype) -> Generate:
    """The peer, through generate()."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.generation_config.eos_token_id = None

    def generate(ids: list[int], new: int) -> None:
        prompt = torch.tensor([ids])
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False)

    return generate


def contestant(generate: Generate, prompt: int, new: int, weight_bytes: int) -> Callable[[], dict[str, float]]:
    """A measurement of one contestant: figures by name."""
    ids = torch.randint(3, 32000, (prompt,), generator=torch.Generator().manual_seed(1)).tolist()

    def seconds(count: int) -> float:
        start = time.perf_counter()
        generate(ids, count)
        return time.perf_counter() - start

    def measure() -> dict[str, float]:
        first = seconds(1)
        decode = new / (seconds(new + 1) - first)
        return {"prefill tok/s": prompt / first, "decode tok/s": decode, "decode GB/s": decode * weight_bytes / 1e9}

    return measure


@contextmanager
def random_model(shape: str, dtype: torch.dtype) -> Iterator[tuple[Path, int]]:
    """A temporary folder with the random model, and the bytes that a decoded token reads."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name), write_random_model(shape, dtype, Path(name))


def table(figures: dict[str, Figures], base: str) -> str:
    """A Markdown table: lowest and highest of each figure, and the median ratio to the base contestant."""
    names = list(figures[base].values)
    lines = [
        "| system | " + " | ".join(f"{name} | × {base}" for name in names) + " |",
        "|---" * (2 * len(names) + 1) + "|",
    ]
    for who, measured in figures.items():
        cells = [f"{measured.span(name)} | {measured.ratio(name, figures[base]):.2f}" for name in names]
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=48, help="tokens decoded after the first")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"{date.today()}: {options.shape}, {options.dtype}, {options.prompt} + {options.new} tokens, batch 1",
        flush=True,
    )
    print(machine(), flush=True)
    with random_model(options.shape, DTYPES[options.dtype]) as (folder, weight_bytes):
        precision = {"bf16": "bf16-true", "fp32": "32-true"}[options.dtype]
        systems = {"transformers": transformers(folder, DTYPES[options.dtype]), "this project": ours(folder, precision)}
        contestants = {
            name: contestant(generate, options.prompt, options.new, weight_bytes) for name, generate in systems.items()
        }
        buffer, rates = torch.ones(2**28), []  # 1 GiB, larger than the caches that a core can count on
        contestants["machine"] = lambda: rates.append(read_rate(buffer) / 1e9) or {}
        figures = in_turn(contestants, options.rounds)
    del figures["machine"]
    print("\n" + table(figures, "transformers"))
    print(f"\nsequential read beside it: {min(rates):.1f}–{max(rates):.1f} GB/s", file=sys.stdout)


if __name__ == "__main__":
    main()
