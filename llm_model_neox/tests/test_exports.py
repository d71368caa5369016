from importlib.metadata import entry_points
from types import ModuleType

import llm_blocks
import llm_model_neox


def test_all_is_exactly_the_architectures_that_the_package_announces() -> None:
    announced = entry_points(group="llm_blocks.architectures")
    ours = {entry.name for entry in announced if entry.value.startswith("llm_model_neox.")}
    assert ours == set(llm_model_neox.__all__)


def test_an_architecture_is_found_by_its_model_type() -> None:
    for name in llm_model_neox.__all__:
        module = getattr(llm_model_neox, name)
        assert llm_blocks.find(name) is module
        assert module.Config.model_type == name


def test_nothing_but_modules_is_public() -> None:
    public = [value for name, value in vars(llm_model_neox).items() if not name.startswith("_")]
    assert all(isinstance(value, ModuleType) for value in public)
