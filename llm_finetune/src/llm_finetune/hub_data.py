"""Data sets of the Hugging Face Hub: their files alone, read by our readers; no code of a repository is run."""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from llm_finetune.downloads import WAY_OUT
from llm_finetune.files import split_of
from llm_finetune.rows import DataError
from llm_sepweight.atomic import atomic_folder

MAX_BYTES = 16 * 2**30
ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # the first of which there are files is taken
_NOTES = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json")


def fetch(
    repo_id: str, folder: Path, token: str | None, *, subsets: str | None = None, splits: Collection[str] = ()
) -> Path:
    """The folder with the data files of the set, downloaded whole or not at all; one that is there is used as it is.

    subsets, splits: see `choose`. ImportError without huggingface_hub; DataError for a set that can't be had.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    hub = _hub(repo_id)
    try:
        info = hub.HfApi(token=token).dataset_info(repo_id, files_metadata=True, timeout=30)
        sizes = {each.rfilename: each.size or 0 for each in info.siblings or []}
        names = choose(sorted(sizes), repo_id, subsets=subsets, splits=splits)
        _require_size(repo_id, sum(sizes[name] for name in names))
        with atomic_folder(folder) as filling:
            for name in names:
                hub.hf_hub_download(
                    repo_id, name, repo_type="dataset", revision=info.sha, token=token, local_dir=filling
                )
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # those of httpx and of the hub are among them
        raise DataError(f"{repo_id}: {_why(error)}; {WAY_OUT}") from error
    return folder


def choose(
    names: Sequence[str], repo_id: str, *, subsets: str | None = None, splits: Collection[str] = ()
) -> list[str]:
    """The files to take of those of a repository: of one format, without a test split.

    subsets: folders or first parts of file names, between commas, to which the choice is limited; needed where there
    are several folders that each have a train split. splits: beginnings of file names, for sets with splits of their
    own. DataError where nothing is left to choose or it isn't clear what is meant.
    """
    safe = [name for name in names if _is_safe(name) and PurePosixPath(name).name not in _NOTES]
    if subsets is not None:
        wanted = tuple(part.strip() for part in subsets.split(",") if part.strip())
        safe = [name for name in safe if _belongs(name, wanted)]
    if splits:
        safe = [name for name in safe if PurePosixPath(name).name.startswith(tuple(splits))]
    else:
        safe = [name for name in safe if split_of(PurePosixPath(name)) != "test"]
    for ending in ENDINGS:
        found = [name for name in safe if name.lower().endswith(ending)]
        if any(split_of(PurePosixPath(name)) in ("", "train") for name in found):
            if subsets is None:
                _require_one(found, repo_id)
            return found
    among = f" among the subsets {subsets}" if subsets else ""
    raise DataError(f"{repo_id}: there is no file of data{among} ({', '.join(ENDINGS)}); {WAY_OUT}")


def _is_safe(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and "\\" not in name and not any(part.startswith(".") for part in path.parts)


def _belongs(name: str, wanted: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    return any(part in (str(path.parent), *path.parts[:-1]) or path.name.startswith(part) for part in wanted)


def _require_one(names: list[str], repo_id: str) -> None:
    """Folders that each have files to train on are different sets, or forms of one."""
    trained = sorted({str(PurePosixPath(name).parent) for name in names if split_of(PurePosixPath(name)) == "train"})
    if len(trained) > 1:
        raise DataError(
            f"{repo_id}: it has several sets; name those that are meant: --data.subsets {','.join(trained)[:500]}"
        )


def _require_size(repo_id: str, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{repo_id}: {size:,} bytes are more than {MAX_BYTES:,}; choose with --data.subsets; {WAY_OUT}")


def _why(error: Exception) -> str:
    """The hub's answer in a line, without what it says of how to call it."""
    name = type(error).__name__
    if name == "GatedRepoError":
        return "the set is gated: accept its terms on its page, and give a token (HF_TOKEN)"
    if name == "RepositoryNotFoundError":
        return "the hub has no such data set, or it is private and needs a token (HF_TOKEN)"
    return f"could not be downloaded ({' '.join(str(error).split())[:200] or name})"


def _hub(repo_id: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        sentence = "data sets of the hub need huggingface_hub: `python -m pip install huggingface_hub` brings it"
        raise ImportError(f"{repo_id}: {sentence}", name="huggingface_hub") from error
    return huggingface_hub
