"""The options of a prompt kept in a file, the same in every command that generates, and what keeps it there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from llm_cli.errors import UsageError, explain
from llm_cli.output import write_notice

if TYPE_CHECKING:
    from llm_cli.llm import LLM
    from llm_cli.reading import PromptCache


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PromptCacheFile:
    """Where the prompt that was read is kept, for a later run whose prompt begins alike; the text is the same."""

    prompt_cache: Annotated[
        Path | None, Parameter(help="A file that keeps what was read of the prompt, for runs that begin alike.")
    ] = None
    prompt_cache_ro: Annotated[bool, Parameter(help="Only read --prompt_cache, never write it.")] = False

    def keeper(self) -> Keeper | None:
        """None where no file was named. Raises ValueError and OSError for a place where there can't be one."""
        if self.prompt_cache is not None:
            return Keeper(self.prompt_cache, read_only=self.prompt_cache_ro)
        if self.prompt_cache_ro:
            raise UsageError("--prompt_cache_ro goes with --prompt_cache FILE; name the file, or leave it out")
        return None


NO_PROMPT_CACHE = PromptCacheFile()


class Keeper:
    """A file that holds the prompt read last, from one run to the next.

    A file that is no prompt cache is refused before the model is loaded, and so never written over.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        from llm_blocks.cache_file import CacheFile
        from llm_cli.prompt_file import check_place, require_prompt

        self._path, self._read_only = path, read_only
        self._held: list[int] = []  # the ids in the file
        self._cache: PromptCache | None = None
        check_place(path, written=not read_only)
        if read_only and not path.exists():
            raise ValueError(f"--prompt_cache_ro finds no file '{path}' to read; leave it out, and it is made")
        if path.exists():
            with CacheFile(path) as file:
                require_prompt(file)

    def open(self, llm: LLM) -> PromptCache:
        """What the file holds for the model of `llm`, or nothing yet. Raises ValueError for another model's."""
        from llm_cli.reading import PromptCache

        self._cache = PromptCache.load(self._path, llm.model) if self._path.exists() else PromptCache(exact=True)
        self._held = list(self._cache.ids)
        if self._cache.differences:
            told = "; ".join(self._cache.differences)
            write_notice(f"the prompt cache was made elsewhere ({told}): equal up to rounding alone")
        return self._cache

    def keep(self) -> None:
        """Write the prompt that was read, unless the file holds it; what can't be written is told, not raised."""
        from llm_cli.pieces import common_prefix, cut_below

        assert self._cache is not None, "opened first"
        ids = self._cache.readable()[0] if not self._read_only else []
        if self._held[: len(ids)] == ids:
            return
        if self._held and not cut_below(common_prefix(self._held, ids)):
            write_notice("the prompt cache held another text, which this one replaces")
        try:
            self._cache.save(self._path, overwrite=True)
        except OSError as error:
            write_notice(f"the prompt was not kept: {explain(error)}")
        else:
            self._held = list(ids)
