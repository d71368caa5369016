"""`llm quantize`: a folder with weights of whole numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from llm_cli.errors import usage
from llm_cli.output import write_json, write_lines


def quantize(
    model: Annotated[Path, Parameter(help="A folder, a name under checkpoints/, or a llama2.c .bin file.")],
    /,
    *,
    to: Annotated[Literal["int8", "int4"], Parameter(help="int8 is nearly exact; int4 takes half of its memory.")],
    out: Annotated[Path, Parameter(help="The folder to make.")],
    group_size: Annotated[
        int | None,
        Parameter(
            help="Inputs that share a scale in int4; by default 64, or less where the layers' inputs ask for it."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        Parameter(help="Layers to leave as they are, as in lm_head or '*.down_proj'; may be repeated."),
    ] = None,
    calibrate: Annotated[
        Path | None, Parameter(help="A text file of the kind that the model is to write; int4 is fitted to it.")
    ] = None,
    method: Annotated[
        Literal["gptq", "awq"] | None,
        Parameter(help="With --calibrate: gptq (the default) loses least, awq only clips groups and is faster."),
    ] = None,
    samples: Annotated[
        int | None, Parameter(help="With --calibrate: pieces of the text to take, 128 by default.")
    ] = None,
    length: Annotated[
        int | None, Parameter(help="With --calibrate: tokens of a piece, by default 512 or the model's context.")
    ] = None,
    report: Annotated[
        str | None,
        Parameter(help="With --calibrate: a file to make, or - for stdout, with errors and perplexity by layer."),
    ] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> None:
    """Write a folder whose linear layers and experts are whole numbers, which generate and chat load, and print it.

    Its form is compressed-tensors', pack-quantized, which others read too.
    MODEL may be a Hugging Face or sepweight folder, a folder of Meta's
    consolidated.*.pth, or a llama2.c .bin file; it is read layer by layer.
    OUT appears when it is complete; nothing that exists is overwritten.
    With --calibrate each layer is fitted to what the quantized ones before it
    give for the text, which takes a few passes of the model over it.
    """
    from llm_cli import calibration_command, models
    from llm_cli.checkpoints import open_checkpoint
    from llm_cli.progress import byte_bar
    from llm_cli.quantized_folder import plan_folder, told, write_folder, written_bytes
    from llm_cli.quantizing import require_linear

    source = open_checkpoint(models.resolve(model, download=False, allow_file=True))
    require_linear(source.skeleton)
    with usage():
        plan = plan_folder(source, to, group=group_size, skip=skip or ())
        asked = calibration_command.Asked(
            file=calibrate, method=method, samples=samples, length=length, report=report, json=json
        )
        asked.check(plan)
    calibration = asked.calibration(plan)
    with byte_bar(f"quantizing to {out}", source.nbytes()) as wrote:
        write_folder(plan, out, wrote=wrote, calibration=calibration)
    sys.stderr.writelines(f"{line}\n" for line in told(plan, out) + asked.told(calibration))
    asked.write_report(plan, calibration)
    if json:
        return write_json(
            {
                "path": str(out),
                "from": source.kind,
                "to": to,
                "group_size": plan.form.group_size,
                "layers": len(plan.layers),
                "left": list(plan.left),
                "bytes_before": source.nbytes(),
                "bytes": written_bytes(out),
                "calibration": asked.in_json(plan, calibration),
            }
        )
    return write_lines(str(out))
