"""Hugging Face transformers, through generate()."""

from importlib.metadata import version
from typing import Any

from peers import Job, Peer, Tick, Unavailable, need, weight_bytes


def load(job: Job) -> Peer:
    """bf16 and fp32; its quantized forms are those of other packages."""
    need("torch", "transformers")
    if job.precision not in ("bf16", "fp32"):
        raise Unavailable(f"no {job.precision} of its own on a CPU")
    import torch
    from transformers import AutoModelForCausalLM

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job.precision]
    model: Any = AutoModelForCausalLM.from_pretrained(job.folder, dtype=dtype)
    model.generation_config.eos_token_id = None

    def generate(ids: list[int], new: int, tick: Tick) -> None:
        prompt = torch.tensor([ids])
        options = {"max_new_tokens": new, "do_sample": False, "streamer": Streamer(tick)}
        model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)

    read = weight_bytes(model, model.get_input_embeddings())
    return Peer(generate=generate, weight_bytes=read, note=f"transformers {version('transformers')}")


class Streamer:
    """What generate() hands tokens to: the prompt first, then each new one."""

    def __init__(self, tick: Tick) -> None:
        self._tick, self._begun = tick, False

    def put(self, value: Any) -> None:
        if self._begun:
            self._tick(value)
        self._begun = True

    def end(self) -> None:
        pass
