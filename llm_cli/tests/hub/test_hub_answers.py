"""What the hub answers in the place of a model: told in words, and hostile names refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_cli.hub import download
from llm_cli.hub_files import DownloadError

WEIGHTS = "model.safetensors"


def fails(root: Path) -> str:
    """The sentence of a download that must fail; checks that it left nothing that looks complete."""
    with pytest.raises(DownloadError) as caught:
        download("org/tiny", root)
    assert not (root / "org" / "tiny").exists()
    assert not [path for path in root.rglob("*") if path.name in ("config.json", WEIGHTS)]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "no model 'org/tiny', or it is private"),
        (401, {}, "refuses access to 'org/tiny'"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "refuses access"),
        (403, {"X-Error-Code": "GatedRepo"}, "is gated: accept its terms"),
        (403, {}, "refuses access to 'org/tiny'"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no such revision"),
        (404, {}, "no model 'org/tiny'"),
        (429, {}, "asks to slow down"),
        (500, {}, "is in trouble"),
        (418, {}, "answered HTTP 418"),
    ],
)
def test_what_the_hub_answers_in_words(
    hub: Any, tmp_path: Path, status: int, headers: dict[str, str], words: str
) -> None:
    hub.listing_status = (status, headers)
    assert words in fails(tmp_path)


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/x", "a\\b.json", "C:x", "a/../../b", "x\0.json", "a//b", "..", ""]
)
def test_names_that_could_leave_the_folder_are_refused(hub: Any, tmp_path: Path, name: str) -> None:
    hub.listed_extra = [{"rfilename": name, "size": 1, "blobId": "0" * 40}]
    assert "refused whole" in fails(tmp_path)


@pytest.mark.parametrize(
    "page",
    [
        b"<html>Welcome to our network, please log in</html>",
        b"[]",
        b'"text"',
        b'{"siblings": 5}',
        b'{"siblings": [{"name": "x"}]}',
        b'{"siblings": [{"rfilename": 7}]}',
        b'{"siblings": [{"rfilename": "config.json", "size": "big", "blobId": "0"}]}',
        b'{"siblings": [{"rfilename": "config.json", "size": -1}]}',
        b'{"siblings": [{"rfilename": "config.json", "size": 1, "blobId": "../../x"}]}',
        b'{"siblings": [{"rfilename": "model.safetensors", "lfs": {"sha256": "0"}}]}',
        b"",
    ],
)
def test_what_answers_is_no_hub(hub: Any, tmp_path: Path, page: bytes) -> None:
    hub.page = page
    assert "check HF_ENDPOINT" in fails(tmp_path)


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/etc/passwd", "absent.safetensors"])
def test_an_index_that_points_elsewhere_is_refused(hub: Any, tmp_path: Path, shard: str) -> None:
    del hub.files[WEIGHTS]
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": shard}}).encode()
    assert "not in the repository" in fails(tmp_path)
