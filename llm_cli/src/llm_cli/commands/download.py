"""`llm download`: a model from the hub into the checkpoints folder, or the list of what can be fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llm_cli.output import write_json, write_lines


def download(
    repo_id: Annotated[str, Parameter(help="A hub id such as TinyLlama/TinyLlama-1.1B-Chat-v1.0, or list.")],
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

    A download that was cut goes on where it stopped when the command is run again.
    """
    if repo_id == "list":
        return _list(json)
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


def _list(json: bool) -> None:
    """The installed architectures with their presets, and the repositories that are known to be of each."""
    from llm_cli.families import families
    from llm_cli.repositories import REPOSITORIES

    listed = {
        name: {"presets": sorted(presets), "repositories": list(REPOSITORIES.get(name, ()))}
        for name, presets in families().items()
    }
    if json:
        return write_json({"families": listed})
    for name, found in listed.items():
        write_lines(f"{name}:", *(f"  {repository}" for repository in found["repositories"]))
        if found["presets"]:
            write_lines(f"  sizes by name: {', '.join(found['presets'])}")
    return None
