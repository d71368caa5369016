"""`llm merge_lora`: an adapter and its base model as one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from llm_cli.commands.sampling import AccessToken
from llm_cli.output import write_json, write_lines, write_notice

DTYPES = {"32-true": "float32", "bf16-true": "bfloat16", "16-true": "float16"}


def merge_lora(
    adapter: Annotated[
        Path, Parameter(help="The folder of a LoRA adapter in PEFT's form, or of the run that made one.")
    ],
    /,
    *,
    base: Annotated[
        str | None,
        Parameter(help="Its base model: a folder, a name under checkpoints/ or a hub id; default: as it says."),
    ] = None,
    out: Annotated[Path | None, Parameter(help="The folder to make; default: `merged` beside the adapter.")] = None,
    precision: Annotated[
        Literal["32-true", "bf16-true", "16-true"] | None,
        Parameter(help="Convert the weights; default: as the base model's file has them."),
    ] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
    access_token: AccessToken = None,
) -> None:
    """Write a base model with a LoRA adapter merged into it as a new folder, and print that folder.

    Each weight is merged in fp32 and rounded once. OUT appears when it is
    complete; nothing that exists is overwritten. The result is an ordinary
    checkpoint: `llm chat OUT`, `llm export`, transformers.
    """
    import torch

    from llm_cli import models
    from llm_finetune import base_of
    from llm_finetune import merge_lora as write

    adapter = _adapter(adapter)
    found = base or base_of(adapter)
    if not found:
        raise ValueError(f"'{adapter}' doesn't say what its base model is; name it with --base")
    folder = models.resolve(found, access_token=access_token)
    dtype = None if precision is None else getattr(torch, DTYPES[precision])
    merged = write(adapter, folder, out or adapter.resolve().parent / "merged", dtype=dtype)
    write_notice(f"merged '{adapter}' into '{folder}'")
    if json:
        return write_json({"path": str(merged), "base": str(folder), "adapter": str(adapter)})
    return write_lines(str(merged))


def _adapter(folder: Path) -> Path:
    """The adapter of a folder: itself, or the one that a run left there. ValueError where there is none."""
    for path in (folder, folder / "adapter"):
        if (path / "adapter_config.json").is_file():
            return path
    beside = folder.parent / "adapter"
    if (folder / "config.json").is_file() and (beside / "adapter_config.json").is_file():
        raise ValueError(f"'{folder}' is a whole model, which has its adapter merged already; alone it is '{beside}'")
    raise ValueError(f"'{folder}' holds no adapter_config.json, so it is no adapter; give a folder that has one")
