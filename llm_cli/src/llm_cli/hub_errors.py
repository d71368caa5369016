"""What the hub and the network answer, told as one sentence with the next step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llm_cli.errors import suggestion
from llm_cli.hub_files import DownloadError

TRUE = ("1", "on", "yes", "true")


@contextmanager
def told(repo_id: str, has_token: bool) -> Iterator[None]:
    """Turn every failure of huggingface_hub and of the connection inside the block into a DownloadError."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE:
        raise DownloadError(_offline(repo_id))
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DownloadError(_offline(repo_id)) from error
    except HFValidationError as error:
        raise DownloadError(f"'{repo_id}' is no hub id; write org/name, as in `llm download list`") from error
    except HfHubHTTPError as error:
        raise DownloadError(_answer(error, repo_id, has_token)) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DownloadError(
            f"the connection to the hub failed while fetching '{repo_id}' ({_reason(error)}); check the network and "
            "HF_ENDPOINT and run the command again: it goes on where it stopped"
        ) from error


def _offline(repo_id: str) -> str:
    return (
        f"'{repo_id}' is not among the local checkpoints and HF_HUB_OFFLINE forbids fetching it; "
        "unset HF_HUB_OFFLINE, or name a model that is here"
    )


def _answer(error: object, repo_id: str, has_token: bool) -> str:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    from llm_cli.models import local_names
    from llm_cli.repositories import known_repositories

    assert isinstance(error, HfHubHTTPError)  # the caller has looked
    status = error.response.status_code
    sent = has_token or bool(os.environ.get("HF_TOKEN"))
    token = "use an access token that has the right to it" if sent else "set HF_TOKEN to your access token"
    if isinstance(error, GatedRepoError):
        return f"'{repo_id}' is gated: accept its terms at https://huggingface.co/{repo_id}, then {token}"
    if isinstance(error, RevisionNotFoundError):
        return f"'{repo_id}' has no such revision; see its branches and tags at https://huggingface.co/{repo_id}"
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        hint = suggestion(repo_id, [*local_names(), *known_repositories()]) or ";"
        return f"the hub has no model '{repo_id}', or it is private{hint} check the spelling, and if private {token}"
    if status in (401, 403):
        return f"the hub refuses access to '{repo_id}' (HTTP {status}); check the spelling, and if private {token}"
    if status == 429:
        return f"the hub asks to slow down (HTTP 429) while fetching '{repo_id}'; wait a few minutes and run it again"
    if status >= 500:
        return f"the hub is in trouble (HTTP {status}) while fetching '{repo_id}'; run it again later: it goes on"
    return f"the hub answered HTTP {status} while fetching '{repo_id}'; run it again later"


def _reason(error: Exception) -> str:
    """The kind of failure without its URL, which could be a signed one."""
    kinds = {
        "ConnectError": "no connection",
        "ConnectTimeout": "no answer in time",
        "ReadTimeout": "the transfer stalled",
        "ReadError": "the connection was cut",
        "RemoteProtocolError": "the connection was cut",
        "UnsupportedProtocol": "the address is not a web address",
        "InvalidURL": "the address is not a web address",
    }
    return kinds.get(type(error).__name__, type(error).__name__)
