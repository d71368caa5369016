from types import ModuleType

import pytest

import llm_blocks
import llm_blocks.testing


@pytest.mark.parametrize("module", [llm_blocks, llm_blocks.testing])
def test_all_is_exactly_what_the_package_offers(module: ModuleType) -> None:
    public = {
        name for name, value in vars(module).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(module.__all__)
    assert len(module.__all__) == len(set(module.__all__))
