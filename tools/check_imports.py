"""Every import is declared: what a module imports is in the standard library, its own package or its pyproject.toml.

Dependencies may be imported anywhere; what only an extra brings may be imported inside functions alone, so that the
package imports without it.
"""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from workspace import ROOT, Package, normalized, packages

DISTRIBUTIONS = packages_distributions()


def imports(tree: ast.AST, inside_function: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Top-level name, line and whether it stands inside a function, of each absolute import that is run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno, inside_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno, inside_function
        deeper = inside_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, deeper)


def undeclared(package: Package, file: Path) -> Iterator[str]:
    """One sentence for each import of the file that the package's manifest does not allow."""
    testing = "testing" in file.parts or file.stem == "testing"  # helpers for tests, shipped for those who write some
    optional = frozenset().union(*(names for extra, names in package.extras.items() if testing or extra != "test"))
    for name, line, inside_function in imports(ast.parse(file.read_text())):
        if name in sys.stdlib_module_names or name == package.name:
            continue
        owners = {normalized(owner) for owner in DISTRIBUTIONS.get(name, [name])}
        allowed = package.dependencies | optional if inside_function else package.dependencies
        if not owners & allowed:
            place = f"{file.relative_to(ROOT)}:{line}"
            yield f"{place} imports {name}, which {package.name}/pyproject.toml does not declare"


def main() -> None:
    problems = [
        problem
        for package in packages().values()
        for file in sorted(package.source.rglob("*.py"))
        for problem in undeclared(package, file)
    ]
    if problems:
        raise SystemExit("\n".join(problems))
    print("imports: all declared")


if __name__ == "__main__":
    main()
