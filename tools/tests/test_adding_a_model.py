"""docs/adding_a_model.md, followed to the letter: a new package, installed by itself, without an edit elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_model.md"
FILE = re.compile(r"^<!-- not run by itself: file (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)

USE = """
import llm_blocks, torch
from llm_blocks import find
config = find("arcee").PRESETS["AFM-4.5B"]
small = type(config).from_hf({**config.to_hf(), "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
                              "vocab_size": 300, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16})
llm_blocks.save(llm_blocks.new_model(small), "arcee", extra_config={"eos_token_id": 5})
"""


def _run(*command: str, folder: Path, site: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(command)} exits with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_page_makes_a_family_that_installs_and_passes_its_tests(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    files = FILE.findall(PAGE.read_text())
    assert len(files) == 4
    for name, body in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    site, package = tmp_path / "site", tmp_path / "llm_model_arcee"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(
        *pip, "--no-index", "--no-deps", "--no-build-isolation", "--target", str(site), str(package),
        folder=tmp_path, site=site,
    )  # fmt: skip
    options = ("--import-mode=importlib", "-q", "-p", "no:cacheprovider")
    assert "passed" in _run(sys.executable, "-m", "pytest", *options, str(package), folder=tmp_path, site=site)
    _run(sys.executable, "-c", USE, folder=tmp_path, site=site)
    assert "arcee" in _run(sys.executable, "-m", "llm_cli", "info", "arcee", folder=tmp_path, site=site)
