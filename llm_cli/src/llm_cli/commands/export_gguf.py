"""`llm export gguf`: one file that llama.cpp and its kin run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from llm_cli.output import human_bytes, write_json, write_lines, write_notice


def gguf(
    model: Annotated[Path, Parameter(help="A folder, a name under checkpoints/, or a llama2.c .bin file.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="The file to make.")],
    dtype: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"] | None,
        Parameter(help="Of the matrices; by default bf16 for a checkpoint in bfloat16 and f16 for any other."),
    ] = None,
    tokenizer: Annotated[
        Path | None, Parameter(help="A tokenizer file (.model, .json) or folder to put in the place of its own.")
    ] = None,
    pre: Annotated[
        str | None,
        Parameter(help="llama.cpp's name for how a byte-level tokenizer cuts text, where it isn't recognised."),
    ] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> None:
    """Write a file that llama.cpp runs with the same results, and print its name.

    It holds the weights, the hyperparameters, the vocabulary and the chat
    template. MODEL may be a Hugging Face or sepweight folder, a folder of
    Meta's consolidated.*.pth, or a llama2.c .bin file. What llama.cpp can't
    run as it is gets refused before anything is written. The file appears when
    it is complete; nothing that exists is overwritten.
    """
    from llm_cli import models
    from llm_cli.checkpoints import open_checkpoint
    from llm_cli.gguf.export import plan_gguf, write_gguf
    from llm_cli.progress import byte_bar

    source = open_checkpoint(models.resolve(model, download=False, allow_file=True))
    plan = plan_gguf(source, type=dtype, tokenizer=tokenizer, pre=pre)
    for note in plan.notes:
        write_notice(f"note: {note}")
    with byte_bar(f"exporting to {out}", plan.nbytes) as wrote:
        write_gguf(plan, out, wrote=wrote)
    size = out.stat().st_size
    sys.stderr.write(f"{source.kind} to gguf ({plan.type}): {human_bytes(size)}\n")
    if json:
        return write_json(
            {
                "path": str(out),
                "from": source.kind,
                "to": "gguf",
                "dtype": plan.type,
                "architecture": plan.form.architecture,
                "tokenizer": f"{plan.vocabulary.rules.model}, {plan.vocabulary.rules.pre}",
                "bytes": size,
                "notes": list(plan.notes),
            }
        )
    return write_lines(str(out))
