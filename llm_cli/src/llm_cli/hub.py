"""Models from the hub: a folder `<root>/<org>/<name>` that appears whole or not at all.

Files arrive under their digest in the hidden sibling `.<name>.partial`, where a later run goes on; only when all are
there and right do they become the folder. The access token travels in request headers and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from llm_cli import hub_files, transfer
from llm_cli.errors import nearest
from llm_cli.hub_errors import told
from llm_cli.hub_files import DownloadError, RemoteFile

DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
MARKER = ".llm_download.json"
INDEX_BYTES = 64 << 20


def download(
    repo_id: str,
    root: Path,
    *,
    access_token: str | None = None,
    tokenizer_only: bool = False,
    revision: str | None = None,
    to_run: bool = False,
) -> Path:
    """Fetch a model repository into `root/org/name` and return that folder; a folder that is there is returned.

    `access_token` None means the one of HF_TOKEN or of a hub login. With `tokenizer_only` no weights are fetched, and
    with `to_run` none of an architecture that isn't installed.
    Raises DownloadError with the way out: no such repository, no right to it, no connection, no space, wrong bytes.
    """
    target = root.joinpath(*_checked_id(repo_id).split("/"))
    if _is_present(target, tokenizer_only, revision):
        return target
    with told(repo_id, bool(access_token)):
        session = _Session(repo_id, access_token or None, revision)
        staging = target.with_name(f".{target.name}.partial")
        staging.mkdir(parents=True, exist_ok=True)
        with _alone(staging, repo_id):
            files = _fetch_all(session, staging, tokenizer_only, to_run)
            marker = {
                "repo_id": repo_id,
                "revision": revision or "main",
                "commit": session.commit,
                "tokenizer_only": tokenizer_only,
                "files": {file.name: {"size": file.size, "digest": file.digest} for file in files},
            }
            _assemble(target, staging, files, marker)
        shutil.rmtree(staging, ignore_errors=True)
    return target


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What an earlier download wrote into the folder about itself, or None."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and isinstance(marker.get("files"), dict) else None


class _Session:
    """One repository at one commit: its listing, and requests that carry the token."""

    def __init__(self, repo_id: str, token: str | None, revision: str | None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import build_hf_headers

        self.repo_id = repo_id
        self.endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.headers = build_hf_headers(token=token, library_name="llm_cli")
        self.token = token
        info = _model_info(HfApi(endpoint=self.endpoint), repo_id, revision or "main", token)
        self.commit = str(info.sha or revision or "main")
        try:
            names = [sibling.rfilename for sibling in info.siblings or []]
            hub_files.check_names(repo_id, names)
            self.files = dict(zip(names, map(_remote, info.siblings or []), strict=True))
        except (TypeError, AttributeError) as error:
            raise DownloadError(_unreadable(self.endpoint)) from error

    def url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo_id, name, revision=self.commit, endpoint=self.endpoint)

    def file(self, name: str) -> RemoteFile:
        """The listed file; a mirror that lists neither size nor digest is asked for them."""
        from huggingface_hub import get_hf_file_metadata

        listed = self.files[name]
        if listed.size is not None and listed.digest is not None:
            return listed
        found = get_hf_file_metadata(self.url(name), token=self.token, endpoint=self.endpoint, retry_on_errors=True)
        size = listed.size if listed.size is not None else found.size
        return RemoteFile(name=name, size=size, digest=listed.digest or _etag_digest(found.etag))


def _model_info(api: Any, repo_id: str, revision: str, token: str | None) -> Any:
    """The hub's answer about a repository; a page that is none, as of a login to the network, is told as such."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return api.model_info(repo_id, revision=revision, files_metadata=True, token=token, timeout=30)
    except (HfHubHTTPError, HFValidationError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(_unreadable(api.endpoint)) from error


def _unreadable(endpoint: str) -> str:
    return (
        f"what answers at '{endpoint}' can't be read as a list of files, so it is no hub; "
        "check HF_ENDPOINT, and whether the network asks for a login first"
    )


def _remote(sibling: Any) -> RemoteFile:
    """The listed file; TypeError for a size or digest that can't be one."""
    size, digest = sibling.size, sibling.blob_id and f"git:{sibling.blob_id}"
    if sibling.lfs is not None:
        size, digest = sibling.lfs.size, f"sha256:{sibling.lfs.sha256}"
    if not (size is None or (type(size) is int and size >= 0)) or not (digest is None or DIGEST.fullmatch(digest)):
        raise TypeError(f"{size!r} or {digest!r}")
    return RemoteFile(name=sibling.rfilename, size=size, digest=digest)


def _etag_digest(etag: str | None) -> str | None:
    """A mirror's ETag is the digest that the hub would have listed, unless it is something else altogether."""
    return next((found for kind in ("sha256", "git") if DIGEST.fullmatch(found := f"{kind}:{etag}")), None)


def _fetch_all(session: _Session, staging: Path, tokenizer_only: bool, to_run: bool) -> list[RemoteFile]:
    """Bring every file that is wanted into the staging folder, small ones first."""
    from llm_cli.progress import transfer_bars

    names = sorted(session.files)
    small = [session.file(name) for name in hub_files.small_files(names)]
    index = None if tokenizer_only else hub_files.weight_index(names)
    if index is not None:
        small.append(session.file(index))
    if not small:
        raise DownloadError(f"the repository '{session.repo_id}' holds no configuration or tokenizer; choose another")
    with transfer_bars(session.repo_id) as bars:
        for file in small:
            transfer.fetch(file, session.url(file.name), _blob(staging, file), session.headers, bars.of(file))
        if tokenizer_only:
            return small
        if to_run:
            _check_architecture(session.repo_id, staging, small)
        weight_map = None if index is None else _weight_map(_blob(staging, small[-1]), index)
        weights = [session.file(name) for name in hub_files.weight_files(session.repo_id, names, weight_map)]
        _check_space(weights, staging)
        bars.expect(weights)
        for file in weights:
            transfer.fetch(file, session.url(file.name), _blob(staging, file), session.headers, bars.of(file))
    return [*small, *weights]


def _check_architecture(repo_id: str, staging: Path, small: Sequence[RemoteFile]) -> None:
    """Refuse a model that could not be run, before gigabytes of it are fetched."""
    from llm_cli.families import GROUP, model_types
    from llm_sepweight import read_json

    config = next((_blob(staging, file) for file in small if file.name == "config.json"), None)
    found = None if config is None else read_json(config, max_bytes=INDEX_BYTES).get("model_type")
    known = model_types()
    if config is not None and found not in known:
        shown = str(found)[:100]
        near = nearest(shown, known)
        like = f"; the nearest is {near}" if near else ""
        raise DownloadError(
            f"'{repo_id}' has the architecture {shown!r}, which is not installed{like} (there are {', '.join(known)}); "
            f"choose another model (`llm download list`), add a package that has it by the entry point group {GROUP} "
            "(the page 'Adding a model family' of the documentation), or fetch it all the same with "
            f"`llm download {repo_id}`"
        )


def _blob(staging: Path, file: RemoteFile) -> Path:
    """Where the content lies until all is there: a name that no other content has, whatever the hub calls it."""
    return staging / sha256(f"{file.digest} {file.size} {file.name}".encode()).hexdigest()[:40]


def _weight_map(path: Path, name: str) -> dict[str, object]:
    from llm_sepweight import read_json

    weight_map = read_json(path, max_bytes=INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DownloadError(f"'{name}' has no weight_map, so the weight files can't be told; try another --revision")
    return weight_map


def _check_space(files: Sequence[RemoteFile], staging: Path) -> None:
    needed = 0
    for file in files:
        blob = _blob(staging, file)
        part = blob.with_name(blob.name + ".part")
        have = next((path.stat().st_size for path in (blob, part) if path.exists()), 0)
        needed += max((file.size or 0) - have, 0)
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise DownloadError(
            f"the weights need {needed / 1e9:.1f} GB more and the disk of '{staging.parent}' has {free / 1e9:.1f} GB "
            "free; free some space, or choose another --checkpoint_dir"
        )


def _assemble(target: Path, staging: Path, files: Sequence[RemoteFile], marker: dict[str, Any]) -> None:
    """Make the folder in one step; a tokenizer-only folder of ours gives way to the whole one."""
    from llm_sepweight.atomic import atomic_folder

    older = target.with_name(f".{target.name}.old")
    if target.exists():
        target.rename(older)
    try:
        with atomic_folder(target) as folder:
            for file in files:
                _link(_blob(staging, file), Path(folder) / file.name)
            (Path(folder) / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        if older.exists() and not target.exists():
            older.rename(target)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _link(source: Path, destination: Path) -> None:
    """Hard links, so that a kill between two files loses nothing; a copy where the file system has no links."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def _checked_id(repo_id: str) -> str:
    from llm_cli.models import HUB_ID

    if not HUB_ID.fullmatch(repo_id) or ".." in repo_id:
        raise DownloadError(f"'{repo_id}' is no hub id; write org/name, or `llm download list` for well-known ones")
    return repo_id


def _is_present(target: Path, tokenizer_only: bool, revision: str | None) -> bool:
    """Whether the folder already holds what is asked for; raises DownloadError when it holds something else."""
    if not target.exists():
        return False
    marker = read_marker(target)
    if marker is None:
        return _is_foreign_checkpoint(target, tokenizer_only)
    if revision is not None and revision not in (marker.get("revision"), marker.get("commit")):
        raise DownloadError(
            f"'{target}' holds the revision {marker.get('revision')}; remove it, or choose another --checkpoint_dir"
        )
    for name, entry in marker["files"].items():
        path = target / name
        if not path.is_file() or (entry.get("size") is not None and path.stat().st_size != entry["size"]):
            raise DownloadError(f"'{path}' is missing or damaged; remove the folder '{target}' and download it again")
    return tokenizer_only or not marker.get("tokenizer_only")


def _is_foreign_checkpoint(target: Path, tokenizer_only: bool) -> bool:
    kinds = ("*.safetensors", "*.bin", "*.pth")
    if (target / "config.json").is_file() and (tokenizer_only or any(any(target.glob(kind)) for kind in kinds)):
        return True
    raise DownloadError(f"'{target}' exists and holds no checkpoint; move it away, or choose another --checkpoint_dir")


@contextmanager
def _alone(staging: Path, repo_id: str) -> Iterator[None]:
    """Hold the staging folder against another process that fetches the same model."""
    from huggingface_hub.utils import WeakFileLock

    lock = WeakFileLock(staging / "lock", timeout=1)
    try:
        lock.__enter__()
    except TimeoutError:
        raise DownloadError(f"another process is fetching '{repo_id}'; wait for it, or end it") from None
    try:
        yield
    finally:
        lock.__exit__(*sys.exc_info())
