"""The memory that is told before a run, against the most that a process with such a run had."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from llm_finetune import Lora, OptimizerSettings, Settings, Train, estimate
from llm_finetune.memory import STATUS

RUN = """
import sys, torch, llm_blocks
from llm_finetune import Lora, Sample, Settings, Train, estimate, finetune, full, with_lora
from llm_finetune.memory import peak
from llm_model_llama import llama

dtype, method, dim, layers, rows = getattr(torch, sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
shape = dict(dim=dim, hidden_dim=3 * dim, num_layers=layers, num_heads=dim // 64, num_kv_heads=dim // 64, head_dim=64)
model = llm_blocks.new_model(llama.Config(vocab_size=8000, max_positions=256, **shape), dtype=dtype)
model.requires_grad_(False).eval()
settings = Settings(train=Train(max_steps=3, global_batch_size=rows, micro_batch_size=rows))
lora = Lora(r=8) if method == "lora" else None
told = estimate(model, settings, positions=rows * 256, lora=lora)
ids = torch.randint(0, 8000, (rows, 257), generator=torch.Generator().manual_seed(0)).tolist()
data = [Sample(ids=each, weights=[1.0] * 257) for each in ids]
finetune(model, data, method=full() if lora is None else with_lora(lora), settings=settings)
print(told.total, peak())
"""


@pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells the peak of a process by itself")
@pytest.mark.parametrize(
    ("dtype", "method", "dim", "layers", "rows"),
    [("float32", "lora", 512, 8, 4), ("bfloat16", "lora", 640, 8, 4), ("float32", "full", 448, 8, 2)],
)
def test_it_is_near_what_a_run_takes(dtype: str, method: str, dim: int, layers: int, rows: int) -> None:
    command = [sys.executable, "-c", RUN, dtype, method, *map(str, (dim, layers, rows))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told, taken = map(int, done.stdout.split())
    assert 0.8 < told / taken < 1.2, (told, taken)


def test_each_share_by_its_settings(make_model: Any) -> None:
    model, settings, lora = make_model(), Settings(train=Train(micro_batch_size=2)), Lora(r=4, query=True, value=True)
    weights = 4 * sum(each.numel() for each in model.parameters())
    full = estimate(model, settings, positions=32)
    assert (full.weights, full.gradients, full.optimizer, full.reused) == (weights, weights, 2 * weights, 0)
    adapters = 4 * 4 * 2 * ((32 + 32) + (16 + 32))  # fp32, r, layers, inputs and outputs of q and v
    small = estimate(model, settings, positions=32, lora=lora)
    assert (small.weights, small.gradients, small.optimizer) == (weights + adapters, adapters, 2 * adapters)
    assert small.saved < full.saved
    assert estimate(model, settings, positions=64).saved == pytest.approx(2 * full.saved, abs=2)
    again = replace(settings, train=Train(activation_checkpointing=True))
    assert estimate(model, again, positions=32).saved < full.saved
    momentum = replace(settings, optimizer=OptimizerSettings(name="SGD"))
    assert estimate(model, momentum, positions=32).optimizer == weights
