from types import ModuleType

import pytest

import llm_blocks
import llm_model_llama
from llm_model_llama import llama


def test_all_is_exactly_what_the_package_offers() -> None:
    public = {
        name
        for name, value in vars(llm_model_llama).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(llm_model_llama.__all__)


def test_the_package_announces_itself() -> None:
    assert llm_blocks.find("llama") is llama
    assert {"llama2c", "meta"} <= set(llm_blocks.installed_importers())


@pytest.mark.parametrize("kind", ["llama2c", "meta"])
def test_importers_are_found_by_their_format(kind: str) -> None:
    assert llm_blocks.find_importer(kind).open.__module__ == "llm_model_llama.importers"
