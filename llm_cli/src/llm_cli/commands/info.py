"""`llm info`: what a checkpoint holds and the memory it needs."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from llm_cli.output import human_bytes, write_json, write_lines, write_table


def info(
    model: Annotated[
        str | None, Parameter(help="A folder, a name under checkpoints/, or a llama2.c .bin file.")
    ] = None,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print one JSON object, sizes in bytes.")] = False,
) -> None:
    """Tell architecture, sizes, tokenizer and the memory needed by dtype, of the model that ships inside by default.

    Reads headers alone and downloads nothing.
    """
    from llm_cli import models
    from llm_cli.description import describe

    found = describe(models.resolve(model, download=False, allow_file=True))
    if json:
        return write_json(found)
    memory = found.pop("memory")
    write_table({name.replace("_", " "): _plain(name, value) for name, value in found.items()})
    write_lines("", "memory    weights   cache per 1,024 tokens")
    write_lines(
        *(
            f"{dtype:<8}  {human_bytes(row['weights']):<8}  {human_bytes(row['cache_per_1024_tokens'])}"
            for dtype, row in memory.items()
        )
    )
    return None


def _plain(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value:,} ({human_bytes(value)})"
    if name == "tokenizer":
        return "none" if value is None else _tokenizer(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _tokenizer(value: dict[str, Any]) -> str:
    if "problem" in value:
        return f"{value['kind']}, which can't be read: {value['problem']}"
    ends = ", ".join(map(str, value["end_ids"])) or "none"
    template = "with" if value["chat_template"] else "no"
    return f"{value['kind']}, {value['tokens']:,} tokens, end ids {ends}, {template} chat template"
