"""The import check finds what a plain install would miss."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
PROGRAM = """
import ast, sys
sys.path.insert(0, sys.argv[1])
import check_imports
for found in check_imports.imports(ast.parse(sys.stdin.read())):
    print(*found)
"""


def imports_of(source: str) -> list[str]:
    """The imports that the check sees in a module's text, a line each."""
    command = [sys.executable, "-c", PROGRAM, str(TOOLS)]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout.splitlines()


def test_an_import_inside_a_function_is_told_apart_from_one_that_runs_at_import() -> None:
    found = imports_of("import numpy.linalg\ndef f():\n    from torch import nn\n")
    assert found == ["numpy 1 False", "torch 3 True"]


def test_imports_inside_try_and_if_run_at_import() -> None:
    assert imports_of("try:\n    import yaml\nexcept ImportError:\n    pass\n") == ["yaml 2 False"]


def test_imports_for_type_checkers_alone_need_no_declaration() -> None:
    assert imports_of("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n") == ["typing 1 False"]


def test_relative_imports_are_the_package_itself() -> None:
    assert imports_of("from . import x\nfrom .y import z\n") == []


def test_an_undeclared_import_is_named_with_its_line_and_manifest() -> None:
    """llm_microlibs shipped five imports that a plain install did not bring."""
    program = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import check_imports, workspace
package = workspace.Package(name="llm_x", version="1", dependencies=frozenset({"torch"}), extras={})
file = workspace.ROOT / "llm_sampler" / "tests" / "made_up.py"
Path.read_text = lambda self: "import torch\\nimport numpy\\n"
print(*check_imports.undeclared(package, file), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program, str(TOOLS)], capture_output=True, text=True, check=True)
    assert "made_up.py:2 imports numpy, which llm_x/pyproject.toml does not declare" in done.stdout
    assert "torch" not in done.stdout
