"""Runs for test_kills.py, each in a copy of this process, which has imported everything to save the time.

A line of JSON is the folder and the kind of a run; its process' number is printed, and after a second line its end.
"""

import json
import os
import sys
from pathlib import Path

import torch

import llm_blocks
from llm_finetune import (
    AdapterSettings,
    Lora,
    Method,
    Rows,
    Sample,
    Train,
    finetune,
    full,
    with_adapter,
    with_adapter_v2,
    with_lora,
)
from llm_model_llama import llama
from llm_quant import quantize

torch.set_num_threads(1)
CONFIG = llama.Config(
    vocab_size=61, dim=32, hidden_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=64
)
PROMPTS = AdapterSettings(prompt_length=3, start_layer=1)


def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            train(*json.loads(line))
            os._exit(0)
        _tell(child)
        sys.stdin.readline()
        _tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def train(folder: str, kind: str) -> None:
    model = llm_blocks.new_model(CONFIG, std=0.1, seed=4)
    if kind == "qlora":
        quantize(model, "int4", group_size=16)
    draw = torch.Generator().manual_seed(0)
    rows = [Sample(ids=torch.randint(0, 61, (9,), generator=draw).tolist(), weights=[1.0] * 9) for _ in range(30)]
    finetune(
        model,
        Rows(train=rows, val=rows[:3]),
        out_dir=Path(folder),
        resume="auto",
        method=_method(kind),
        precision="bf16-mixed" if kind == "bf16-mixed" else "16-mixed" if kind == "16-mixed" else None,
        train=Train(epochs=8, global_batch_size=4, micro_batch_size=2, save_interval=1),
    )


def _method(kind: str) -> Method:
    if kind.endswith("ora"):
        return with_lora(Lora(r=4, dropout=0.1, mlp=True, dora=kind == "dora"), base="tiny")
    if kind == "adapter":
        return with_adapter(PROMPTS, base="tiny")
    return with_adapter_v2(PROMPTS, base="tiny") if kind == "adapter_v2" else full()


if __name__ == "__main__":
    main()
