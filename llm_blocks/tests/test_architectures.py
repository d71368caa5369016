from types import ModuleType

import pytest

import llm_blocks
from llm_blocks import ArchitectureError


def test_an_installed_package_is_found_by_its_entry_point(toy: ModuleType) -> None:
    assert llm_blocks.find("toy") is toy
    assert "toy" in llm_blocks.installed_architectures()
    assert llm_blocks.find_importer("toy_format") is toy.IMPORTER
    assert "toy_format" in llm_blocks.installed_importers()


def test_an_unknown_model_type_names_the_nearest_and_the_way_out(toy: ModuleType) -> None:
    with pytest.raises(ArchitectureError, match=r"'yot': did you mean 'toy'\?.*docs/adding_a_model\.md") as caught:
        llm_blocks.find("yot")
    # whoever installed packages has no docs folder, but can search for these
    assert "entry point group llm_blocks.architectures" in str(caught.value)
    assert "'Adding a model family'" in str(caught.value)
    with pytest.raises(ArchitectureError, match="format 'toyformat': did you mean 'toy_format'"):
        llm_blocks.find_importer("toyformat")


@pytest.mark.parametrize("model_type", ["toi", "toy_vl", "toy2", "toy_moe", "toyed"])
def test_a_relative_is_no_misspelling(toy: ModuleType, model_type: str) -> None:
    """llava was taken for a misspelt llama, and qwen2_vl for qwen2."""
    with pytest.raises(ArchitectureError, match=f"'{model_type}': installed are "):
        llm_blocks.find(model_type)


def test_the_sentence_stays_short_whatever_the_file_holds(toy: ModuleType) -> None:
    with pytest.raises(ArchitectureError) as caught:
        llm_blocks.find("x" * 10**6)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("model_type", [None, 7, ["toy"], "", "os"])
def test_a_model_type_never_names_a_module_to_import(toy: ModuleType, model_type: object) -> None:
    with pytest.raises(ArchitectureError):
        llm_blocks.find(model_type)
