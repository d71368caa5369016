"""`llm download`: a model from the hub into the checkpoints folder, or the list of what can be fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llm_cli.errors import UsageError
from llm_cli.output import write_json, write_lines


def download(
    repo_id: Annotated[str, Parameter(help="A hub id such as TinyLlama/TinyLlama-1.1B-Chat-v1.0, or list.")],
    words: Annotated[str, Parameter(help="With list: only families and repositories with this in their names.")] = "",
    /,
    *,
    access_token: Annotated[
        str | None, Parameter(help="For gated and private models; better given as the environment variable HF_TOKEN.")
    ] = None,
    tokenizer_only: Annotated[bool, Parameter(help="Fetch configuration and tokenizer, no weights.")] = False,
    checkpoint_dir: Annotated[
        Path | None, Parameter(help="Folder of all models; by default checkpoints in the current directory.")
    ] = None,
    revision: Annotated[str | None, Parameter(help="Branch, tag or commit; by default main.")] = None,
    json: Annotated[bool, Parameter(help="Print one JSON object.")] = False,
) -> None:
    """Fetch a model from the hub and print its folder; `llm download list` prints well-known models.

    A download that was cut goes on where it stopped when the command is run
    again. `llm download list qwen` lists what has qwen in its name; any other
    repository whose model_type is in the list works too.
    """
    if repo_id == "list":
        return _list(words, json)
    if words:
        raise UsageError(f"one repository at a time: '{repo_id}' or '{words}'; words to search for go behind list")
    from llm_cli.hub import download as fetch
    from llm_cli.hub import read_marker
    from llm_cli.models import checkpoint_root

    root = checkpoint_dir or checkpoint_root()
    try:
        folder = fetch(repo_id, root, access_token=access_token, tokenizer_only=tokenizer_only, revision=revision)
    except KeyboardInterrupt:
        sys.stderr.write("what has come is kept: run the same command again to go on\n")
        raise
    if json:
        marker = read_marker(folder) or {}
        return write_json({"repo_id": repo_id, "path": str(folder), "commit": marker.get("commit")})
    return write_lines(str(folder))


def _list(words: str, json: bool) -> None:
    """The installed architectures, what each is for, and well-known repositories of it."""
    from llm_cli.families import model_types
    from llm_cli.repositories import listed

    found = listed(model_types(), words)
    if json:
        told = {name: {"models": one.models, "repositories": list(one.repositories)} for name, one in found.items()}
        return write_json({"families": told})
    for name, one in found.items():
        write_lines(f"{name}: {one.models}", *(f"  {repository}" for repository in one.repositories))
    return write_lines("any other repository whose model_type is one of these works too")
