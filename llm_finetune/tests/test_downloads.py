"""Downloads from a server on this machine: whole files are kept, anything else leaves nothing behind."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llm_finetune import downloads
from llm_finetune.downloads import download
from llm_finetune.rows import DataError

BODY = b'{"question": "q", "answer": "a"}\n'
ASKED: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ASKED.append((self.path, self.headers.get("Authorization")))
        if self.path == "/moved":
            self._head(302, Location="/whole.jsonl")
        elif self.path == "/away":
            self._head(302, Location="ftp://127.0.0.1/whole.jsonl")
        elif self.path == "/page":
            self._head(200, **{"Content-Type": "text/html; charset=utf-8"})
            self.wfile.write(b"<html>log in</html>")
        elif self.path == "/cut":
            self._head(200, **{"Content-Length": str(len(BODY) + 9)})
            self.wfile.write(BODY)
        elif self.path == "/chunks":  # the size isn't told
            self._head(200)
            self.wfile.write(BODY * 100)
        elif self.path == "/whole.jsonl":
            self._head(200, **{"Content-Length": str(len(BODY))})
            self.wfile.write(BODY)
        else:
            self.send_error(404)

    def _head(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(downloads, "SCHEMES", ("http",))
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    ASKED.clear()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()
    thread.join()


def test_a_file_comes_once_and_is_kept(server: str, tmp_path: Path) -> None:
    target = tmp_path / "data" / "x.jsonl"
    assert download(f"{server}/moved", target).read_bytes() == BODY
    assert download(f"{server}/moved", target).read_bytes() == BODY
    assert [path for path, _ in ASKED] == ["/moved", "/whole.jsonl"]


@pytest.mark.parametrize(
    ("path", "most", "message"),
    [
        ("/cut", 1000, r"ended after 33 of 42 bytes"),
        ("/whole.jsonl", 32, r"33 bytes are more than 32; .*--data FILE"),
        ("/chunks", 1000, r"more than 1,000 bytes; .*--data FILE"),
        ("/page", 1000, r"a page of HTML came .*--data FILE"),
        ("/none", 1000, r"answered 404 Not Found; .*--data FILE"),
        ("/away", 1000, r"https:// addresses alone"),
    ],
)
def test_what_is_no_whole_file_leaves_nothing(server: str, tmp_path: Path, path: str, most: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        download(server + path, tmp_path / "x.jsonl", max_bytes=most)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SCHEMES", ("http",))
    with pytest.raises(DataError, match=r"could not be downloaded \(.*; with the rows in a file .*--data FILE"):
        download("http://127.0.0.1:9/x.jsonl", tmp_path / "x.jsonl")


@pytest.mark.parametrize("url", ["http://example.org/x", "file:///etc/passwd", "x.jsonl", "https:///x"])
def test_https_alone(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="https:// addresses alone"):
        download(url, tmp_path / "x.jsonl")
