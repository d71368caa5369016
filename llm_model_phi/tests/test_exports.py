import tomllib
from pathlib import Path
from types import ModuleType

import llm_blocks
import llm_model_phi


def test_all_is_exactly_the_architectures_that_the_package_announces() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(llm_model_phi.__all__) == set(project["entry-points"]["llm_blocks.architectures"])
    for name in llm_model_phi.__all__:
        assert llm_blocks.find(name) is getattr(llm_model_phi, name)


def test_nothing_else_is_offered() -> None:
    names = {name for name, value in vars(llm_model_phi).items() if not isinstance(value, ModuleType)}
    assert not {name for name in names if not name.startswith("_")}
