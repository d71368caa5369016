"""The access token goes to the hub and nowhere else: not to another host, a file, the output or a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_cli.hub import download

TOKEN = "hf_thisIsASecretOfTheTests"


def run_llm(cwd: Path, *tokens: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LLM_"))}
    env = {**kept, "HF_HOME": str(cwd / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    command = [sys.executable, "-m", "llm_cli", *tokens]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def holds_token(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_token_of_the_environment_is_sent_and_not_kept(hub: Any, tmp_path: Path) -> None:
    done = run_llm(tmp_path, "download", "org/tiny", HF_TOKEN=TOKEN, HF_ENDPOINT=hub.url)
    assert (done.returncode, done.stdout) == (0, "checkpoints/org/tiny\n"), done.stderr
    assert {headers.get("authorization") for _, _, headers in hub.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stderr
    assert holds_token(tmp_path) == []


@pytest.mark.parametrize("form", [("--access_token", TOKEN), (f"--access-token={TOKEN}",)])
def test_a_token_of_the_command_line_is_in_no_error_and_no_traceback(hub: Any, tmp_path: Path, form: Any) -> None:
    hub.listing_status = (401, {"X-Error-Message": f"bad token {TOKEN}"})
    done = run_llm(tmp_path, "--debug", "download", "org/tiny", *form, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "llm: error: the hub refuses access" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert holds_token(tmp_path) == []


def test_help_shows_no_token(hub: Any, tmp_path: Path) -> None:
    """A default taken from the environment would be printed as the option's default."""
    done = run_llm(tmp_path, "download", "--help", HF_TOKEN=TOKEN, LLM_ACCESS_TOKEN=TOKEN)
    assert "--access_token" in done.stdout
    assert TOKEN not in done.stdout


def test_a_redirect_to_another_host_carries_no_token(hub: Any, tmp_path: Path) -> None:
    seen: list[str | None] = []
    content = hub.files["model.safetensors"]

    class Storage(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Storage) as storage:
        thread = threading.Thread(target=storage.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        hub.fault("model.safetensors").redirect = f"http://127.0.0.1:{storage.server_port}"
        download("org/tiny", tmp_path, access_token=TOKEN)
        storage.shutdown()
        thread.join()
    assert seen == [None]
