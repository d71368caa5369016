"""A server on loopback that speaks the hub's protocol, well or badly, as a test asks of it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c0ffee" * 6 + "abcd"
REPO = "org/tiny"
CHUNK = 50_000
STALL_SECONDS = 0.6
TOKEN = "hf_thisIsASecretOfTheTests"


@dataclass
class Faults:
    """What goes wrong with one file."""

    cuts: list[int] = field(default_factory=list)  # bytes sent before the connection drops, one per request
    resets: list[int] = field(default_factory=list)  # the same, by a reset and not by an end
    stalls: list[int] = field(default_factory=list)  # bytes sent before nothing more comes for a while
    ignore_range: bool = False
    length: int | None = None  # the Content-Length that is claimed
    content: bytes | None = None  # what is sent instead of the listed content
    statuses: list[int] = field(default_factory=list)  # answers before the first good one
    etag: str | None = None
    redirect: str | None = None  # another host, as for a file behind a CDN


class Hub:
    """Files of one repository, the faults of each, and every request that came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, Faults] = {}
        self.listing_status: tuple[int, dict[str, str]] | None = None
        self.listed_extra: list[dict[str, object]] = []
        self.with_digests = True
        self.page: bytes | None = None  # what is sent in the place of the listing
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""

    def fault(self, name: str) -> Faults:
        return self.faults.setdefault(name, Faults())

    def listing(self) -> dict[str, object]:
        siblings = [self.sibling(name, data) for name, data in self.files.items()]
        return {"id": REPO, "sha": COMMIT, "siblings": [*siblings, *self.listed_extra]}

    def sibling(self, name: str, data: bytes) -> dict[str, object]:
        if not self.with_digests:
            return {"rfilename": name}
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git}
        if name.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(data).hexdigest()
            found["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 130}
        return found

    def gets(self, name: str) -> list[dict[str, str]]:
        """The headers of each GET of a file."""
        return [headers for method, path, headers in self.requests if method == "GET" and path.endswith("/" + name)]


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
            if path.startswith("/api/models/"):
                return self.list_files()
            name = path.split(f"/resolve/{COMMIT}/", 1)[-1]
            if name not in hub.files:
                return self.reply(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return self.send_file(name, body)

        def list_files(self) -> None:
            if hub.listing_status is not None:
                status, headers = hub.listing_status
                return self.reply(status, headers, b'{"error": "as the test wants"}')
            if hub.page is not None:
                return self.reply(200, {"Content-Type": "text/html"}, hub.page)
            if REPO not in self.path:
                return self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
            return self.reply(200, {"Content-Type": "application/json"}, json.dumps(hub.listing()).encode())

        def send_file(self, name: str, body: bool) -> None:
            faults = hub.fault(name)
            data = hub.files[name]
            etag = faults.etag or hashlib.sha256(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data))}
            if body and faults.statuses:
                return self.reply(faults.statuses.pop(0), {}, b"")
            if faults.redirect:
                return self.reply(302, {**headers, "Location": faults.redirect + self.path}, b"")
            if faults.content is not None:
                data = faults.content
            return self.send_bytes(faults, headers, data, body)

        def send_bytes(self, faults: Faults, headers: dict[str, str], data: bytes, body: bool) -> None:
            start = 0
            asked = self.headers.get("Range")
            if asked and not faults.ignore_range:
                start = int(asked.removeprefix("bytes=").split("-")[0])
                if start >= len(data):
                    self.reply(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
                    return
                headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.send_response(206 if start else 200)
            length = faults.length if faults.length is not None else len(data) - start
            for key, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()
            if not body:
                return
            cuts = next((kind for kind in (faults.cuts, faults.resets, faults.stalls) if kind), None)
            cut = cuts.pop(0) if cuts is not None else None
            self.wfile.write(data[start:] if cut is None else data[start : start + cut])
            self.close_connection = cut is not None or length != len(data) - start
            if cuts is faults.resets:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            elif cuts is faults.stalls:
                threading.Event().wait(STALL_SECONDS)

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is what some tests are about."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running hub with a small repository; HF_ENDPOINT points to it, and waiting takes no time."""
    served = Hub()
    server = Server(("127.0.0.1", 0), handler(served))
    served.url = f"http://127.0.0.1:{server.server_port}"
    served.files = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer.json": b'{"version": "1.0"}',
        "README.md": b"# not fetched",
        "model.safetensors": bytes(range(256)) * 4000,
        "pytorch_model.bin": b"a pickle that nobody needs",
    }
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "LLM_CHECKPOINT_DIR", "LLM_ACCESS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    # The files here are smaller than the real chunk, of which a cut connection loses what has come.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", STALL_SECONDS / 3)
    monkeypatch.chdir(tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()
