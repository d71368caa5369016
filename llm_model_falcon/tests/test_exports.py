from types import ModuleType

import pytest

import llm_blocks
import llm_model_falcon
from llm_model_falcon import falcon


def test_all_is_exactly_what_the_package_offers() -> None:
    public = {
        name
        for name, value in vars(llm_model_falcon).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(llm_model_falcon.__all__)


@pytest.mark.parametrize("model_type", ["falcon", "RefinedWeb", "RefinedWebModel"])
def test_the_package_announces_itself(model_type: str) -> None:
    assert llm_blocks.find(model_type) is falcon
