"""`llm convert`: a checkpoint into another layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from llm_cli.output import write_json, write_lines


def convert(
    src: Annotated[Path, Parameter(help="A folder, a name under checkpoints/, or a llama2.c .bin file.")],
    dst: Annotated[Path, Parameter(help="The folder to make.")],
    /,
    *,
    to: Annotated[
        Literal["sepweight", "hf"] | None,
        Parameter(help="Layout of DST; by default sepweight for a Hugging Face folder, and hf for any other."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Parameter(help="Convert the tensors; by default every byte is kept."),
    ] = None,
    tokenizer: Annotated[
        Path | None, Parameter(help="A tokenizer file (.model, .json, .bin) or folder to put beside the weights.")
    ] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> None:
    """Write a checkpoint as a new folder in another layout, and print that folder.

    SRC is a Hugging Face or sepweight folder, a folder of Meta's
    consolidated.*.pth, or a llama2.c .bin file, told apart by content.
    DST appears when it is complete; nothing that exists is overwritten.
    """
    import torch

    from llm_cli import models
    from llm_cli.checkpoints import open_checkpoint
    from llm_cli.conversion import convert as write
    from llm_cli.conversion import told

    source = open_checkpoint(models.resolve(src, download=False, allow_file=True))
    layout = to or ("sepweight" if source.kind == "hf" else "hf")
    chosen = getattr(torch, dtype) if dtype else None
    write(source, dst, layout=layout, dtype=chosen, tokenizer=tokenizer)
    sys.stderr.writelines(f"{line}\n" for line in told(source, layout, dst, chosen))
    if json:
        size = sum(path.stat().st_size for path in dst.iterdir() if path.is_file())
        return write_json({"path": str(dst), "from": source.kind, "to": layout, "bytes": size})
    return write_lines(str(dst))
