"""transformers and peft, with torch's own AdamW, as their guides train in plain PyTorch."""

from importlib.metadata import version
from typing import Any

from trainers import ALPHA, RATE, R, Start, Task, Tick, Unavailable, weight_bytes


def train(task: Task, start: Start, tick: Tick) -> None:
    """Attention by torch's kernel, all logits at once; the adapters are fp32, as peft makes them."""
    try:
        import peft
        import transformers
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} isn't installed") from error
    if task.precision not in ("fp32", "bf16"):
        raise Unavailable(f"no {task.precision} here")
    import torch

    dtype = torch.float32 if task.precision == "fp32" else torch.bfloat16
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(task.folder, dtype=dtype)
    size = weight_bytes(base.requires_grad_(False))
    config = peft.LoraConfig(
        r=R, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model: Any = peft.get_peft_model(base, config).train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=RATE, fused=True)
    ids = torch.tensor(task.rows(base.config.vocab_size))
    start(size, f"peft {version('peft')}, transformers {version('transformers')}")
    while True:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tick(float(loss.detach()))
