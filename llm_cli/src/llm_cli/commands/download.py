"""`llm download`: a model from the hub into the checkpoints folder, or the list of what can be fetched."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llm_cli.errors import UsageError
from llm_cli.output import write_json, write_lines


def download(
    repo_id: Annotated[
        str, Parameter(help="A hub id such as TinyLlama/TinyLlama-1.1B-Chat-v1.0, the address of its page, or list.")
    ],
    /,
    *words: Annotated[str, Parameter(help="With list: only families and repositories that have each of these words.")],
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
    again. `llm download list qwen 7b` lists what has both in its name; any other
    repository whose model_type is in the list works too.
    """
    if repo_id == "list":
        return _list(words, json)
    if words:
        raise UsageError(f"one repository at a time: '{repo_id}' or '{words[0]}'; words to search for go behind list")
    from llm_cli.hub import download as fetch
    from llm_cli.hub import read_marker
    from llm_cli.models import checkpoint_root, hub_repository

    repo_id, shown = hub_repository(repo_id)
    revision = _one_revision(revision, shown)
    if re.fullmatch(r"[\w.\-]+", repo_id):
        raise ValueError(
            f"'{repo_id}' names no repository; write org/name, or find one with `llm download list {repo_id}`"
        )
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


def _one_revision(given: str | None, shown: str | None) -> str | None:
    """The revision of --revision or of the address of a page, which may not say two things."""
    if given is not None and shown is not None and given != shown:
        raise UsageError(f"the address says revision '{shown}' and --revision says '{given}'; give one of them")
    return shown if given is None else given


def _list(words: tuple[str, ...], json: bool) -> None:
    """The installed architectures, what each is for, and well-known repositories of it."""
    from llm_cli.families import model_types
    from llm_cli.repositories import listed

    found = listed(model_types(), *words)
    if json:
        told = {name: {"models": one.models, "repositories": list(one.repositories)} for name, one in found.items()}
        return write_json({"families": told})
    for name, one in found.items():
        write_lines(f"{name}: {one.models}", *(f"  {repository}" for repository in one.repositories))
    return write_lines("any other repository whose model_type is one of these works too")
