import importlib.metadata
from types import ModuleType

import llm_sepweight


def test_all_is_the_public_surface():
    public = {
        name
        for name, value in vars(llm_sepweight).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public | {"atomic"} == set(llm_sepweight.__all__)  # atomic is the one public module
    assert sorted(llm_sepweight.__all__) == llm_sepweight.__all__


def test_the_version_is_that_of_the_package():
    assert llm_sepweight.__version__ == importlib.metadata.version("llm_sepweight")
