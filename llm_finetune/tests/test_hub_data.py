"""Sets of the hub, by the real huggingface_hub from a server on this machine that answers as the hub does."""

import json
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_finetune import hub_data
from llm_finetune.rows import DataError

constants: Any = pytest.importorskip("huggingface_hub.constants")
SHA = 40 * "a"
FILES = {
    "README.md": b"# A set",
    "load.py": b"raise SystemExit",
    "data/train-0.jsonl": b'{"text": "a"}\n',
    "data/val-0.jsonl": b'{"text": "b"}\n',
}
ASKED: list[tuple[str, str | None]] = []
BROKEN: list[str] = []


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        path = self.path.partition("?")[0]
        ASKED.append((path, self.headers.get("Authorization")))
        name = path.partition(f"/resolve/{SHA}/")[2]
        if path.startswith("/api/datasets/some/set"):
            files = [{"rfilename": each, "size": len(data)} for each, data in FILES.items()]
            self._answer(200, json.dumps({"id": "some/set", "sha": SHA, "siblings": files}).encode(), body)
        elif path.startswith("/api/datasets/gated/"):
            self._answer(403, b"{}", body, **{"X-Error-Code": "GatedRepo"})
        elif name in FILES and name not in BROKEN:
            self._answer(200, FILES[name], body, **{"ETag": f'"{zlib.crc32(name.encode()):x}"', "X-Repo-Commit": SHA})
        else:
            self._answer(404, b"{}", body, **{"X-Error-Code": "EntryNotFound" if name else "RepoNotFound"})

    def _answer(self, code: int, data: bytes, body: bool, **headers: str) -> None:
        self.send_response(code)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{made.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ASKED.clear()
    BROKEN.clear()
    yield
    made.shutdown()
    made.server_close()
    thread.join()


def test_the_data_files_alone_come_once(server: None, tmp_path: Path) -> None:
    folder = hub_data.fetch("some/set", tmp_path / "here", "hf_secret")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*") if ".cache" not in path.parts)
    assert files == ["data/train-0.jsonl", "data/val-0.jsonl"]
    assert (folder / "data/train-0.jsonl").read_bytes() == FILES["data/train-0.jsonl"]
    assert not any("README" in path or "load.py" in path for path, _ in ASKED)
    assert {token for path, token in ASKED if path.startswith("/api/datasets/")} == {"Bearer hf_secret"}, ASKED
    assert "Bearer hf_secret" in {token for path, token in ASKED if "/resolve/" in path}
    assert not any(b"secret" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    count = len(ASKED)
    assert hub_data.fetch("some/set", tmp_path / "here", None) == folder
    assert len(ASKED) == count


def test_a_set_that_breaks_off_leaves_nothing(server: None, tmp_path: Path) -> None:
    BROKEN.append("data/val-0.jsonl")
    with pytest.raises(DataError, match=r"some/set: could not be downloaded .*--data FILE"):
        hub_data.fetch("some/set", tmp_path / "here", None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("repo_id", "message"), [("gated/set", "accept its terms on its page"), ("no/set", "the hub has no such data set")]
)
def test_what_the_hub_refuses(server: None, tmp_path: Path, repo_id: str, message: str) -> None:
    with pytest.raises(DataError, match=f"{repo_id}: .*{message}.*--data FILE"):
        hub_data.fetch(repo_id, tmp_path / "here", None)


def test_a_set_over_the_limit(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_data, "MAX_BYTES", 27)
    with pytest.raises(DataError, match=r"28 bytes are more than 27; choose with --data\.subsets"):
        hub_data.fetch("some/set", tmp_path / "here", None)
