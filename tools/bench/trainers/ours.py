"""This project, through `llm_finetune.finetune`."""

from trainers import ALPHA, RATE, R, Start, Task, Tick, Unavailable, weight_bytes


def train(task: Task, start: Start, tick: Tick) -> None:
    """The rows of a step are one packed row; nf4 is QLoRA over a base in bf16."""
    try:
        import llm_blocks
        from llm_cli.quantizing import while_read
        from llm_finetune import Eval, Event, Lora, Rows, Sample, Train, finetune, with_lora
    except ModuleNotFoundError as error:
        raise Unavailable(f"{error.name} isn't installed") from error
    import torch

    dtype = torch.float32 if task.precision == "fp32" else torch.bfloat16
    replace = while_read("bnb.nf4" if task.precision == "nf4" else None)
    model = llm_blocks.load(task.folder, dtype=dtype, replace=replace)
    size = weight_bytes(model)
    rows = [Sample(ids=ids, weights=[1.0] * len(ids)) for ids in task.rows(model.config.vocab_size)]

    def tell(event: Event) -> None:
        if event.kind == "start":
            start(size, f"llm_finetune, {'QLoRA' if task.precision == 'nf4' else 'LoRA'}")
        if event.kind == "step":
            tick(event.values["loss"])

    finetune(
        model,
        Rows(train=rows, val=[]),
        method=with_lora(Lora(r=R, alpha=ALPHA, dropout=0), base=task.folder),
        on_event=tell,
        train=Train(
            global_batch_size=task.batch,
            micro_batch_size=task.batch,
            epochs=100_000,
            learning_rate=RATE,
            schedule="constant",
            lr_warmup_steps=0,
        ),
        eval=Eval(interval=None, final_validation=False),
    )
