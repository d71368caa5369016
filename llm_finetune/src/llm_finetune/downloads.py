"""Files of data sets over https: whole or not at all, of a bounded size, and kept for the next time."""

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llm_finetune.rows import DataError
from llm_sepweight.atomic import atomic_file

MAX_BYTES = 4 * 2**30
TIMEOUT = 30.0  # seconds without a byte
SCHEMES = ("https",)
_CHUNK = 2**20
_PAGES = ("text/html", "application/xhtml+xml")  # what comes instead of a file: a page to log in on, or of an error
WAY_OUT = "with the rows in a file of your own, give it instead: --data FILE"


def download(url: str, target: Path, *, max_bytes: int = MAX_BYTES) -> Path:
    """The file at `url` as `target`, which is made with its folder; one that is there already is not fetched again.

    https alone, also where it leads on to. Raises DataError for other addresses and for answers that are refused, cut
    off, pages of HTML or larger than max_bytes; then nothing is left behind.
    """
    if target.is_file():
        return target
    _require_scheme(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    request = urllib.request.Request(url, headers={"User-Agent": "llm_finetune", "Accept-Encoding": "identity"})
    try:
        with _OPENER.open(request, timeout=TIMEOUT) as answer, atomic_file(target, overwrite=True) as file:
            _copy(answer, file, url, max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{url}: the server answered {error.code} {error.reason}; {WAY_OUT}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url}: could not be downloaded ({reason}); {WAY_OUT}") from error
    return target


def _copy(answer: Any, file: Any, url: str, max_bytes: int) -> None:
    """The body, if it is a file of a bearable size and all of it comes."""
    if answer.headers.get_content_type() in _PAGES:
        raise DataError(f"{url}: a page of HTML came instead of a file of data; {WAY_OUT}")
    told = answer.headers.get("Content-Length")
    expected = int(told) if told is not None and told.isdecimal() else None
    if expected is not None and expected > max_bytes:
        raise DataError(f"{url}: {expected:,} bytes are more than {max_bytes:,}; {WAY_OUT}")
    count = 0
    while part := answer.read(_CHUNK):
        count += len(part)
        if count > max_bytes:
            raise DataError(f"{url}: there are more than {max_bytes:,} bytes; {WAY_OUT}")
        file.write(part)
    if expected is not None and count != expected:
        raise DataError(f"{url}: the connection ended after {count:,} of {expected:,} bytes; try again")


def _require_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise DataError(f"{url}: data is downloaded from https:// addresses alone; {WAY_OUT}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to where a first address could have been."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)
