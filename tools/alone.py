"""Install one package with nothing but what it declares, from its wheel, and run its tests there.

The wheels of its siblings are given by file, never by name, so that an index cannot answer in their place.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from workspace import ROOT, closure, named

BUILD = ROOT / "build"


def run(*command: object, cwd: Path | None = None) -> None:
    """Run a command; its failure is ours."""
    done = subprocess.run([str(part) for part in command], check=False, cwd=cwd)
    if done.returncode:
        raise SystemExit(done.returncode)


def main() -> None:
    package = named(sys.argv[1] if len(sys.argv) > 1 else "")
    home = BUILD / "alone" / package.name
    shutil.rmtree(home, ignore_errors=True)
    wheels, environment = home / "wheels", home / "venv"
    needed = closure(package)
    folders = [one.folder for one in needed]
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, *folders)
    run(sys.executable, "-m", "venv", environment)
    files = {one.name: next(wheels.glob(f"{one.name}-*.whl")) for one in needed}
    requested = [f"{file}[test]" if name == package.name else file for name, file in files.items()]
    pip = environment / "bin" / "pip"
    run(pip, "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt", *requested)
    # From a folder of its own: the wheel is what is imported, not the sources beside the tests.
    pytest = [environment / "bin" / "python", "-m", "pytest", "-c", ROOT / "pyproject.toml"]
    run(*pytest, package.folder / "tests", cwd=home)


if __name__ == "__main__":
    main()
