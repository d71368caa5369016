"""Build one package, tag it `name-vVERSION` and print the command that publishes it."""

import subprocess
import sys

from check_versions import git, problems, tag
from workspace import ROOT, named


def main() -> None:
    package = named(sys.argv[1] if len(sys.argv) > 1 else "")
    if git("status", "--porcelain").stdout:
        raise SystemExit("the work tree has changes: commit them first, so that the tag names what is built")
    if found := list(problems(package)):
        raise SystemExit("\n".join(found))
    if git("rev-parse", "--verify", "--quiet", f"refs/tags/{tag(package)}").returncode == 0:
        raise SystemExit(f"{tag(package)} exists: raise the version in {package.name}/pyproject.toml")
    out = ROOT / "dist" / tag(package)
    build = [sys.executable, "-m", "build", "--outdir", str(out), str(package.folder)]
    if subprocess.run(build, check=False).returncode:
        raise SystemExit(f"{package.name} does not build; nothing is tagged")
    if (tagged := git("tag", "--annotate", tag(package), "--message", tag(package))).returncode:
        raise SystemExit(tagged.stderr.strip())
    print(f"\nTagged {tag(package)}. To publish:\n  git push origin {tag(package)}\n  python -m twine upload {out}/*")


if __name__ == "__main__":
    main()
