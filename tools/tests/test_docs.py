"""What the documents show is run: each `python` block, and each `bash` block that calls `llm` or `python`.

The blocks of one document run in order in one folder; consecutive Python blocks are one program, so that a block may
use the names of the one before; one that asks for `__main__` is its own. A block right under the comment
`<!-- not run: why -->` is only shown.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("llm_*/README.md")])
BLOCK = re.compile(r"(?P<before>[^\n]*\n)?^```(?P<kind>python|bash)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a document that is run."""

    kind: str
    body: str
    line: int


def blocks(document: Path) -> list[Block]:
    """The runnable blocks of a document, consecutive Python blocks joined."""
    text, joined = document.read_text(), list[Block]()
    found = [
        Block(kind=found["kind"], body=found["body"], line=text.count("\n", 0, found.start("body")))
        for found in BLOCK.finditer(text)
        if "<!-- not run" not in (found["before"] or "")
    ]
    for block in (block for block in found if not is_set_up(block)):
        whole = '__name__ == "__main__"' in block.body  # a program that starts itself again must be alone in its file
        if joined and joined[-1].kind == block.kind == "python" and not whole:
            joined[-1] = replace(joined[-1], body=joined[-1].body + block.body)
        else:
            joined.append(block)
    return joined


def environment(folder: Path) -> dict[str, str]:
    """The environment of a user in that folder, with our commands first on the path and no network."""
    binaries = Path(sys.executable).parent
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def run(command: list[str], block: Block, document: Path, folder: Path) -> None:
    """Run one block; it fails with what it printed and where it stands."""
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=120
    )
    place = f"{document.relative_to(ROOT)}:{block.line}"
    assert done.returncode == 0, f"{place} exits with {done.returncode}\n{block.body}\n{done.stdout}\n{done.stderr}"


def is_set_up(block: Block) -> bool:
    """Cloning and installing are proven by using the repository, not by doing it again inside its own tests."""
    return block.kind == "bash" and re.search(r"^(llm|python) ", block.body, re.MULTILINE) is None


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_the_document_runs(document: Path, tmp_path: Path) -> None:
    for block in blocks(document):
        if block.kind == "bash":
            run(["bash", "-euo", "pipefail", "-c", block.body], block, document, tmp_path)
        else:
            (tmp_path / "shown.py").write_text(block.body)
            run([sys.executable, "shown.py"], block, document, tmp_path)


def test_every_link_to_a_file_of_the_repository_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"
