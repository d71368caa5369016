"""What the other tools know of the repository: its packages, their manifests and how they depend on each other."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of the family, as its pyproject.toml describes it."""

    name: str
    version: str
    dependencies: frozenset[str]
    extras: dict[str, frozenset[str]]

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.name


def normalized(requirement: str) -> str:
    """The distribution that a requirement names, spelled as in PyPA's name normalisation but with underscores."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    if name is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "_", name[0]).lower()


def packages() -> dict[str, Package]:
    """Every package of the family, by name."""
    found = {}
    for manifest in sorted(ROOT.glob("llm_*/pyproject.toml")):
        project = tomllib.loads(manifest.read_text())["project"]
        extras = project.get("optional-dependencies", {})
        found[project["name"]] = Package(
            name=project["name"],
            version=project["version"],
            dependencies=frozenset(map(normalized, project["dependencies"])),
            extras={name: frozenset(map(normalized, listed)) for name, listed in extras.items()},
        )
    return found


def named(name: str) -> Package:
    """The package called so; exits with the known names where there is none."""
    known = packages()
    if name not in known:
        raise SystemExit(f"no package {name!r}: PKG is one of {', '.join(known)}")
    return known[name]


def closure(package: Package) -> list[Package]:
    """The package and its siblings that it needs, directly or not."""
    known, wanted = packages(), [package]
    for one in wanted:
        wanted += [known[name] for name in sorted(one.dependencies) if name in known and known[name] not in wanted]
    return wanted
