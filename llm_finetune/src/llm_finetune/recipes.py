"""Recipes: files of settings that ship with the package, found by name. Without torch."""

import difflib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent / "recipes"
NEEDS = "# Needs: "


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe by its name, such as "llama-3.2-1b/lora"; `needs` is its first line, on memory and time."""

    name: str
    path: Path
    needs: str

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


def recipes() -> list[Recipe]:
    """All of them, by name."""
    return [_recipe(path) for path in sorted(ROOT.glob("*/*.yaml"))]


def recipe_names() -> list[str]:
    """Their names."""
    return [recipe.name for recipe in recipes()]


def recipe_path(name: str) -> Path:
    """The file of a recipe. ValueError for a name that there is none of, with the nearest."""
    known = {recipe.name: recipe.path for recipe in recipes()}
    wanted = name.lower().replace("\\", "/").removesuffix(".yaml")
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, 1)
    hint = f"did you mean {near[0]}?" if near else "`llm recipes` lists them"
    raise ValueError(f"there is no file {name!r}, and no recipe of that name; {hint}")


def _recipe(path: Path) -> Recipe:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return Recipe(name=f"{path.parent.name}/{path.stem}", path=path, needs=first.removeprefix(NEEDS))
