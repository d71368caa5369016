"""Versions are told once: a changelog's top entry is the version, and what changed since its tag has a new one."""

import re
import subprocess
from collections.abc import Iterator

from workspace import ROOT, Package, packages


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def tag(package: Package) -> str:
    """The tag under which this version of the package is released."""
    return f"{package.name}-v{package.version}"


def problems(package: Package) -> Iterator[str]:
    """One sentence for each way in which the package's version is not told right."""
    changelog = (package.folder / "CHANGELOG.md").read_text()
    top = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    if top is None or top[1] != package.version:
        entry = top[1] if top else "missing"
        yield f"{package.name}: version {package.version}, but the changelog's top entry is {entry}"
    released = git("rev-parse", "--verify", "--quiet", f"refs/tags/{tag(package)}").returncode == 0
    if released and git("diff", "--quiet", tag(package), "--", f"{package.name}/src").returncode:
        yield f"{package.name}: changed since {tag(package)}, so it needs a new version and a changelog entry"


def main() -> None:
    found = [problem for package in packages().values() for problem in problems(package)]
    if found:
        raise SystemExit("\n".join(found))
    print("versions: changelogs agree")


if __name__ == "__main__":
    main()
