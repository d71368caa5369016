"""This project, through the LLM class."""

from peers import Job, Peer, Tick, Unavailable, need, weight_bytes

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-true", "int8": "bf16-true", "int4": "bf16-true"}


def load(job: Job) -> Peer:
    """int8 and int4 are weights alone; activations are bf16."""
    need("llm_cli")
    from importlib.metadata import version

    from llm_cli import LLM

    llm = LLM.load(job.folder, distribute=None)
    quantize = job.precision if job.precision in ("int8", "int4") else None
    try:
        # huge pages at once, as they are after some hundred tokens: speed is measured here, and not loading
        llm.distribute(accelerator="cpu", precision=PRECISIONS[job.precision], quantize=quantize, huge_pages=True)
    except ValueError as error:
        raise Unavailable(str(error)) from error

    def generate(ids: list[int], new: int, tick: Tick) -> None:
        options = {"max_new_tokens": new, "temperature": 0, "ignore_eos": True}
        for token in llm.generate(ids, stream=True, return_as_token_ids=True, **options):
            tick(token)

    embedding = next(each for name, each in llm.model.named_modules() if name.endswith("embed"))
    return Peer(
        generate=generate, weight_bytes=weight_bytes(llm.model, embedding), note=f"llm_cli {version('llm_cli')}"
    )
