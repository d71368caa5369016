"""The systems that are compared, each in a module with one function `load(job)`.

It gives a `Peer` ready to generate, or raises `Unavailable` with one line on why it can't. Nothing heavy is imported
before it is called: a worker may run in an environment where this project is not installed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODULES = {
    "ours": "ours",
    "transformers": "transformers",
    "llama.cpp": "llama_cpp",
    "litgpt": "litgpt",
    "gpt-fast": "gpt_fast",
    "gpt-fast-eager": "gpt_fast",
}
PRECISIONS = ("bf16", "int8", "int4", "fp32")
Tick = Callable[[Any], None]  # called with each new token, a number or a tensor of one
Generate = Callable[[list[int], int, Tick], None]  # prompt ids, how many new tokens


class Unavailable(ValueError):
    """This system can't be run here; the message says why in one line."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is to prepare."""

    system: str
    precision: str
    folder: str  # the checkpoint, as a Hugging Face folder
    scratch: str  # where to write what else it needs
    threads: int
    positions: int  # the longest prompt with its answer
    python: str  # an interpreter with this project
    tokenizer: str  # a folder with any tokenizer, for formats that demand one
    path: str | None = None  # of gpt-fast

    @property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        return json.loads((Path(self.folder) / "config.json").read_text())


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A system that is ready: how it generates greedily, and the bytes of weights that it reads for a token."""

    generate: Generate
    weight_bytes: int
    note: str = ""  # versions, and what a reader of the table has to know


def load(job: Job) -> Peer:
    """The system of that name in that precision."""
    return import_module(f"peers.{MODULES[job.system]}").load(job)


def need(*modules: str) -> None:
    """Unavailable where a module is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Unavailable(f"{' and '.join(missing)} not installed")


def weight_bytes(module: Any, embedding: Any) -> int:
    """Bytes of a torch module's weights without those of the embedding, of which a token reads one row."""
    tensors = {id(each): each for each in (*module.parameters(), *module.buffers())}
    skipped = {id(each) for each in (*embedding.parameters(), *embedding.buffers())}
    return sum(each.nbytes for key, each in tensors.items() if key not in skipped)


def linked(job: Job, name: str) -> Path:
    """A folder of its own, named after the checkpoint, with links to the checkpoint's files and an index of them."""
    source = Path(job.folder)
    folder = Path(job.scratch) / name / source.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        link = folder / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        from safetensors import safe_open

        with safe_open(str(source / "model.safetensors"), framework="pt") as file:
            names = dict.fromkeys(file.keys(), "model.safetensors")
        index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder
