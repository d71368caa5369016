"""One file from the hub to the disk: resumed where it was cut, bounded by its size, and checked by its digest.

huggingface_hub does the request, the redirects and the retries. Three things it leaves open are done here. It deletes
a partial file when the process fails, so a cut shard would start from zero: ours stays and is continued. It checks no
digest: a wrong file of the right length would pass. It writes whatever the server sends until the connection ends:
ours stops at the announced size.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from llm_cli.hub_files import DownloadError, RemoteFile

BUSY = (500, 502, 503, 504)
ATTEMPTS = 4  # without a new byte; huggingface_hub makes five of its own in each for refused and timed-out connections
WAIT_SECONDS = 1.0
CHUNK = 1 << 20


class Bar(Protocol):
    """What is told about the bytes that arrive."""

    def update(self, count: int | float | None = 1) -> object: ...
    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> object: ...


def fetch(file: RemoteFile, url: str, blob: Path, headers: dict[str, str], bar: Callable[..., Bar]) -> None:
    """Bring `file` to the path `blob`, which appears only once size and digest are right.

    A partial `blob.part` from an earlier run is continued. Raises DownloadError for a file that stays wrong,
    and what huggingface_hub raises for a connection that stays broken.
    """
    if blob.exists():
        return
    part = blob.with_name(blob.name + ".part")
    for last in (False, True):
        _fill(file, url, part, headers, bar)
        problem = mismatch(part, file)
        if problem is None:
            with part.open("rb") as done:
                os.fsync(done.fileno())
            part.replace(blob)
            return
        part.unlink()
        if last:
            raise DownloadError(
                f"what the server sent as '{file.name}' {problem}, twice; nothing was kept of it: "
                "try again later, or set HF_ENDPOINT to another mirror"
            )


def mismatch(path: Path, file: RemoteFile) -> str | None:
    """A clause that says how the file on disk differs from what the hub announced; None when it is right."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes where the hub announced {file.size:,}"
    if file.digest is None:
        return None
    kind, _, wanted = file.digest.partition(":")
    found = _digest(path, kind, size)
    return None if found == wanted else f"has the {kind} digest {found[:12]}… where the hub announced {wanted[:12]}…"


def _digest(path: Path, kind: str, size: int) -> str:
    if kind == "sha256":
        digest = hashlib.sha256()
    else:
        # Git's own name of a file: sha1 over a short header and the content.
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fill(file: RemoteFile, url: str, part: Path, headers: dict[str, str], bar: Callable[..., Bar]) -> None:
    """Append to `part` until the server has sent it whole; a cut connection is resumed while bytes keep coming."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    while True:
        before = _size(part)
        try:
            return _append(file, url, part, headers, bar)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status == 416:  # the part is longer than the file, so it is of another one
                part.unlink(missing_ok=True)
            elif status not in BUSY:
                raise
            problem: Exception = error
        except (httpx2.ReadError, httpx2.WriteError) as error:  # a reset connection, which huggingface_hub gives up on
            problem = error
        failures = 0 if _size(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise problem
        time.sleep(WAIT_SECONDS * failures)


def _append(file: RemoteFile, url: str, part: Path, headers: dict[str, str], bar: Callable[..., Bar]) -> None:
    from huggingface_hub.file_download import http_get

    resume = _size(part)
    if file.size is not None and resume > file.size:
        part.unlink()
        resume = 0
    with part.open("r+b" if resume else "wb") as stream, _quiet():
        stream.seek(resume)
        bounded = _Bounded(stream, file)
        # Compressed, the bytes could be neither counted nor resumed.
        wanted = {**headers, "Accept-Encoding": "identity"}
        try:
            http_get(url, bounded, resume_size=resume, headers=wanted, expected_size=file.size, tqdm_class=bar)  # type: ignore[arg-type]
        except OSError as error:
            # A length that differs from the announced one: told by `mismatch`, with the numbers.
            if "Consistency check failed" not in str(error):
                raise


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _quiet() -> Iterator[None]:
    """huggingface_hub logs each retry with a URL; the progress bar says enough."""
    logger = logging.getLogger("huggingface_hub.file_download")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Bounded:
    """A file that refuses to grow past the announced size, so that no server can fill the disk."""

    def __init__(self, stream: BinaryIO, file: RemoteFile) -> None:
        self.stream, self.file = stream, file

    def write(self, data: bytes) -> int:
        if self.file.size is not None and self.stream.tell() + len(data) > self.file.size:
            raise DownloadError(
                f"the server sends more than the announced {self.file.size:,} bytes as '{self.file.name}', "
                "so it was stopped; try again later, or set HF_ENDPOINT to another mirror"
            )
        return self.stream.write(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def truncate(self, size: int | None = None) -> int:
        return self.stream.truncate(size)
