"""LitGPT's model with its LoRA, its chunked head and its loss, in the steps of its own finetuning script."""

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainers import ALPHA, RATE, R, Start, Task, Tick, Unavailable, weight_bytes

CHUNK = 128  # positions of the head at a time, as its script has it


def train(task: Task, start: Start, tick: Tick) -> None:
    """The checkpoint as its own script converts it."""
    try:
        lightning: Any = import_module("lightning")
        lora: Any = import_module("litgpt.lora")
        utils: Any = import_module("litgpt.utils")
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} isn't installed") from error
    if task.precision not in ("fp32", "bf16"):
        raise Unavailable(f"no {task.precision} on a CPU")
    import torch

    folder = _converted(task)
    precision = {"fp32": "32-true", "bf16": "bf16-true"}[task.precision]
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision)
    options = {"lora_r": R, "lora_alpha": ALPHA, "lora_dropout": 0.0, "lora_query": True, "lora_value": True}
    with fabric.init_module(empty_init=False):
        model = lora.GPT(lora.Config.from_file(folder / "model_config.yaml", **options))
    lora.mark_only_lora_as_trainable(model)
    model.load_state_dict(torch.load(folder / "lit_model.pth", mmap=True, weights_only=True), strict=False)
    size = weight_bytes(model)
    model = fabric.setup_module(model)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=RATE, fused=True)
    optimizer = fabric.setup_optimizers(optimizer)
    ids = torch.tensor(task.rows(model.config.vocab_size))
    model.max_seq_length = ids.size(1)
    start(size, f"litgpt {version('litgpt')}, torch {torch.__version__}")
    while True:
        logits = model(ids, lm_head_chunk_size=CHUNK)
        logits[-1] = logits[-1][..., :-1, :]
        loss = utils.chunked_cross_entropy(logits, ids[..., 1:])
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        tick(float(loss.detach()))


def _converted(task: Task) -> Path:
    """The folder with its own form of the checkpoint, beside it."""
    source = Path(task.folder)
    folder = source.parent / "litgpt" / source.name
    if not (folder / "lit_model.pth").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to((source / name).resolve())
        raw = json.loads((source / "config.json").read_text())
        hyperparameters = import_module("peers.litgpt").hyperparameters(raw, source.name)
        import_module("litgpt.config").name_to_config[source.name] = hyperparameters
        script: Any = import_module("litgpt.scripts.convert_hf_checkpoint")
        script.convert_hf_checkpoint(folder, model_name=source.name)
    return folder
