"""One process of a run of several, as test_ranks.py starts it: what to do is a JSON object."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

import llm_blocks
from llm_finetune import (
    Eval,
    Lora,
    OptimizerSettings,
    Rows,
    Sample,
    Train,
    finetune,
    full,
    started,
    stop_on_signals,
    with_lora,
)
from llm_model_llama import llama
from llm_quant import quantize
from llm_tokenizer import Tokenizer

torch.set_num_threads(1)
SHAPE: dict[str, Any] = {"dim": 32, "hidden_dim": 48, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}


def main(folder: str, method: str, processes: int, micro: int, steps: int, more: dict[str, Any]) -> None:
    tied = more.pop("tied", False)
    config = llama.Config(vocab_size=61, max_positions=64, tie_embeddings=tied, **SHAPE)
    model = llm_blocks.new_model(config, std=0.1, seed=4)
    if method.startswith("qlora"):
        scheme: Any = method.removeprefix("qlora-")
        quantize(model, scheme, group_size=16) if scheme == "int4" else quantize(model, scheme)
    lora = Lora(r=4, alpha=8, dropout=more.pop("dropout", 0.0), mlp=True, dora=method == "dora")
    draw, left = torch.Generator().manual_seed(0), iter(range(steps - 1))
    precision, optimizer = more.pop("precision", None), OptimizerSettings(**more.pop("optimizer", {}))
    dies, interrupts = more.pop("dies", None), more.pop("interrupts", None)
    rows = Rows(train=[_row(number, draw) for number in range(17)], val=[_row(0, draw)])
    if more.pop("pairs", False):
        pairs: Any = list(zip(rows.train[:16:2], rows.train[1:16:2], strict=True))
        rows = Rows(train=pairs)
    samples: list[str] = []
    more = {"save_interval": 2, "max_norm": 1.0} | more

    def tell(event: Any) -> None:
        if event.kind == "sample":
            samples.append(event.values["text"])

    with started(processes) as _, stop_on_signals() as signalled:

        def stop() -> bool:
            if dies is not None and os.environ["RANK"] == str(dies):
                os._exit(7)
            if interrupts:
                Path(interrupts, os.environ["RANK"]).touch()
            return signalled() or next(left, None) is None

        run = finetune(
            model,
            rows,
            tokenizer=_tokenizer(Path(folder)),
            method=full() if method == "full" else with_lora(lora, base="tiny"),
            out_dir=Path(folder, "run"),
            resume="auto",
            stop=stop,
            on_event=tell,
            train=Train(epochs=3, global_batch_size=8, micro_batch_size=micro, **more),
            eval=Eval(interval=2, max_new_tokens=6),
            optimizer=optimizer,
            precision=precision,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        history = [[row["step"], row["loss"], row.get("val_loss")] for row in run.history]
        said = {"history": history, "samples": samples, "after": run.after, "stopped": run.interrupted}
        sys.stdout.write(json.dumps(said) + "\n")
    sys.exit(130 if run.interrupted and interrupts else 0)


def _row(number: int, draw: torch.Generator) -> Sample:
    n = int(torch.randint(3, 20, (), generator=draw))
    start = n if number % 4 == 3 else 1 + number % 2
    return Sample(ids=torch.randint(0, 61, (n,), generator=draw).tolist(), weights=[0.0] * start + [1.0] * (n - start))


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / "tokenizer")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
