"""`llm info`: what a checkpoint holds and the memory it needs."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from llm_cli.errors import UsageError
from llm_cli.output import human_bytes, write_json, write_lines, write_table


def info(
    model: Annotated[
        str | None, Parameter(help="A folder (an adapter's too), a name under checkpoints/, or a llama2.c .bin file.")
    ] = None,
    /,
    *,
    presets: Annotated[
        bool, Parameter(help="List the presets, the shapes that LLM.load(NAME, init='random') takes.")
    ] = False,
    json: Annotated[bool, Parameter(help="Print one JSON object, sizes in bytes.")] = False,
) -> None:
    """Tell architecture, sizes, tokenizer and the memory needed by dtype, of the model that ships inside by default.

    Reads headers alone and downloads nothing. A sepweight folder may hold a
    part of a model; sizes and memory are then those of the part.
    """
    if presets:
        return _presets(model, json)
    from llm_cli import models
    from llm_cli.adapters import located
    from llm_cli.description import describe, describe_adapter

    adapter = located(model)
    if adapter is not None:
        found = describe_adapter(adapter)
        return write_json(found) if json else _table(found)
    found = describe(models.resolve(model, download=False, allow_file=True))
    if json:
        return write_json(found)
    memory = found.pop("memory")
    _table(found)
    write_lines("", "memory    weights   cache per 1,024 tokens")
    write_lines(
        *(
            f"{dtype:<8}  {human_bytes(row['weights']):<8}  {human_bytes(row['cache_per_1024_tokens'])}"
            for dtype, row in memory.items()
        )
    )
    return (
        None
        if found["quantization"]
        else write_lines("int8 and int4 are estimates; `llm quantize` writes such a folder")
    )


def _table(found: dict[str, Any]) -> None:
    known = {name: value for name, value in found.items() if value is not None or name == "tokenizer"}
    write_table({name.replace("_", " "): _plain(name, value) for name, value in known.items()})


def _presets(model: str | None, json: bool) -> None:
    """The presets of each architecture, a line for each."""
    if model is not None:
        raise UsageError(f"--presets lists those of every architecture; leave out '{model}', or --presets")
    from llm_cli.description import presets

    found = presets()
    if json:
        return write_json({"presets": found})
    return write_lines(*(f"{model_type}: {', '.join(names)}" for model_type, names in found.items()))


def _plain(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value:,} ({human_bytes(value)})"
    if name == "tokenizer":
        return "none" if value is None else _tokenizer(value)
    if name == "left_out":
        unlisted = value["parts"] - len(value["prefixes"])
        more = f" and {unlisted:,} more" if unlisted else ""
        return f"{value['tensors']:,} tensors ({', '.join(value['prefixes'])}{more})"
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
