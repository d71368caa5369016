"""Write docs/models.md: what each architecture is for and what was measured of it, from the tests' own tables.

`python tools/models_page.py` measures every configuration (a minute or two) and writes the page.
"""

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workspace import ROOT

import llm_blocks
from llm_blocks.testing import Family

PAGE = ROOT / "docs" / "models.md"

INTRODUCTION = """\
# Supported models

Each architecture is found by the `model_type` of a checkpoint's `config.json`, and is read from its Hugging Face folder
in place; other names by which a `config.json` may call it stand behind "also". `llm download list` names well-known
repositories of each; any other repository with one of these types works too, and a type of your own is a package away:
[adding a model family](adding_a_model.md). `llm info --presets` lists the shapes that
`LLM.load(NAME, init="random", tokenizer_dir=…)` makes without weights.

The table is written by `tools/models_page.py` from the tests' own list (`llm_model_*/tests/test_parity_*.py`). For
every configuration there, with random weights in fp32 on the CPU, the logits of a text longer than every window and
every trained rotary length are compared with those of `transformers`: at once, in chunks and one by one with a cache,
for rows of unequal lengths, and after saving and loading again; greedy text must be identical, and the laws of a model
must hold (slices compose bit for bit, rolled back = never written, …). *Bound* is what the tests demand of every logit,
absolute and relative; *fp32* is the largest difference measured when this page was written, *bf16* the mean error of
bf16 logits over that of `transformers` (1 means as near to fp32 as it is), the worst of the configurations.

| models | `model_type` | package | what is particular | configurations | bound | fp32 | bf16 |
|---|---|---|---|---|---|---|---|
"""

NOTES = """
A bound above 1e-5 has its reason:

"""


def families() -> Iterator[tuple[str, Family]]:
    """The package and table of every architecture that has one, in the order of packages and files."""
    for file in sorted(ROOT.glob("llm_model_*/tests/test_parity_*.py")):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from ((file.parts[-3], value) for value in vars(module).values() if isinstance(value, Family))


def described(package: str, family: Family) -> str:
    """The part of a row that is not measured."""
    cases = "; ".join(family.cases)
    cells = (family.models, called(family.model_type), package, family.features, cases, f"{family.tolerance:.0e}")
    return f"| {' | '.join(cells)} |"


def called(model_type: str) -> str:
    """The name of an architecture in config.json, and the others that lead to it."""
    module = llm_blocks.find(model_type)
    others = [name for name in llm_blocks.installed_architectures() if llm_blocks.find(name) is module]
    also = ", ".join(f"`{name}`" for name in others if name != model_type)
    return f"`{model_type}`, also {also}" if also else f"`{model_type}`"


def measured(family: Family) -> tuple[float, float]:
    """The largest fp32 difference and the largest ratio of bf16 errors of a family's configurations."""
    errors, ratios = [], []
    for name in family.cases:
        with tempfile.TemporaryDirectory() as folder:
            case = family.make(name, Path(folder) / "reference")
            errors.append(case.error())
            ratios.append(case.bf16_error())
    return max(errors), max(ratios)


def main() -> None:
    rows, notes = [], []
    for package, family in families():
        error, ratio = measured(family)
        rows.append(f"{described(package, family)} {error:.1e} | {ratio:.2f} |\n")
        if family.tolerance > 1e-5:
            notes.append(f"- `{family.model_type}`: {family.why}.\n")
        print(rows[-1], end="", flush=True)
    PAGE.write_text(INTRODUCTION + "".join(rows) + (NOTES + "".join(notes) if notes else ""))


if __name__ == "__main__":
    main()
