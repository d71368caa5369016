"""`llm export hf`: the folder that transformers and its kin load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from llm_cli.errors import UsageError
from llm_cli.output import parse_bytes, write_json, write_lines


def hf(
    model: Annotated[Path, Parameter(help="A folder, a name under checkpoints/, or a llama2.c .bin file.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder to make.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Parameter(help="Convert the tensors; by default every byte is kept."),
    ] = None,
    max_shard_size: Annotated[str, Parameter(help="Largest size of a file of weights, as in 5GB or 500MB.")] = "5GB",
    tokenizer: Annotated[
        Path | None, Parameter(help="A tokenizer file (.model, .json, .bin) or folder to put in the place of its own.")
    ] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> None:
    """Write a folder that transformers loads with equal logits, and print that folder.

    It holds safetensors in shards with their index, config.json as
    transformers spells it today, generation settings, tokenizer and chat
    template. MODEL may be a Hugging Face or sepweight folder, a folder of
    Meta's consolidated.*.pth, or a llama2.c .bin file. The new folder appears
    when it is complete; nothing that exists is overwritten.
    """
    try:
        max_shard_bytes = parse_bytes(max_shard_size)
    except ValueError as error:
        raise UsageError(f"--max_shard_size: {error}") from error
    import torch

    from llm_cli import models
    from llm_cli.checkpoints import open_checkpoint
    from llm_cli.conversion import told
    from llm_cli.exporting import export_hf
    from llm_cli.progress import byte_bar

    source = open_checkpoint(models.resolve(model, download=False, allow_file=True))
    chosen = getattr(torch, dtype) if dtype else None
    with byte_bar(f"exporting to {out}", source.nbytes(chosen)) as wrote:
        export_hf(source, out, dtype=chosen, max_shard_bytes=max_shard_bytes, tokenizer=tokenizer, wrote=wrote)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    size = sum((out / name).stat().st_size for name in files)
    sys.stderr.writelines(f"{line}\n" for line in told(source, "hf", out, chosen))
    if json:
        return write_json({"path": str(out), "from": source.kind, "to": "hf", "bytes": size, "files": files})
    return write_lines(str(out))
