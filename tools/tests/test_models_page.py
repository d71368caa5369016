"""docs/models.md says what the tests test, and leaves no architecture out."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def page() -> object:
    sys.path.insert(0, str(TOOLS))
    try:
        import models_page
    finally:
        sys.path.remove(str(TOOLS))
    return models_page


def test_every_row_is_that_of_the_tests(page) -> None:  # type: ignore[no-untyped-def]
    text = page.PAGE.read_text()
    for package, family in page.families():
        assert page.described(package, family) in text, f"{family.model_type}: run tools/models_page.py"


def test_every_installed_architecture_is_tested_against_transformers(page) -> None:  # type: ignore[no-untyped-def]
    import llm_blocks

    tested = {family.model_type for _, family in page.families()}
    modules = {llm_blocks.find(model_type).__name__ for model_type in tested}
    for model_type in llm_blocks.installed_architectures():
        assert llm_blocks.find(model_type).__name__ in modules, f"{model_type} has no table of parity"


def test_every_architecture_is_checked_against_three_configurations_or_more(page) -> None:  # type: ignore[no-untyped-def]
    counts: dict[str, int] = {}
    for _, family in page.families():
        counts[family.model_type] = counts.get(family.model_type, 0) + len(family.cases)
    assert min(counts.values()) >= 3, counts
