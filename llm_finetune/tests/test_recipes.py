"""The recipes that ship: each loads, is what its name says, and is found by it."""

import re

import pytest

from llm_finetune import read_settings, recipe_names, recipe_path
from llm_finetune.config_file import read_options
from llm_finetune.recipes import recipes

FAMILIES = {
    "falcon-7b": "lora qlora",
    "gemma-2b": "full lora qlora",
    "gemma-7b": "lora qlora",
    "gemma2-2b": "lora qlora",
    "gemma2-9b": "lora qlora",
    "llama-2-7b": "full lora qlora",
    "llama-3-8b": "full lora qlora",
    "llama-3.1-8b": "full lora qlora",
    "llama-3.2-1b": "full lora qlora",
    "llama-3.2-3b": "full lora qlora",
    "mistral-7b": "lora qlora",
    "mistral-7b-v0.2": "lora qlora",
    "phi-2": "full lora qlora",
    "phi-3": "full lora qlora",
    "stablelm-base-alpha-3b": "full lora qlora",
    "tiny-llama": "full lora qlora",
}


def test_each_family_and_method_of_the_hub_is_there() -> None:
    wanted = {f"{family}/{method}" for family, methods in FAMILIES.items() for method in methods.split()}
    assert len(wanted) == 42
    assert wanted <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_loads_and_is_what_its_name_says(name: str) -> None:
    family, method = name.split("/")
    job = read_settings(name)
    assert job.method == method.removeprefix("q")
    assert (job.quantize is not None) == (method == "qlora")
    assert job.folder == f"out/finetune/{method}-{family}"
    assert job.model is None if family == "demo" else re.fullmatch(r"[\w.-]+/[\w.-]+", job.model or "")
    assert (job.data.name is None) == (family == "demo")
    assert job.settings.train.max_seq_length == (None if family == "demo" else 512)


def test_each_recipe_says_what_it_needs_and_gives_nothing_twice() -> None:
    for recipe in recipes():
        assert re.search(r"memory", recipe.needs), recipe.name
        assert not recipe.needs.startswith("#"), recipe.name
        assert len(set(read_options(recipe.path))) == len(re.findall(r"^ *[a-z_0-9]+: ", recipe.text, re.MULTILINE))


def test_recipes_are_found_by_name() -> None:
    assert recipe_path("Llama-3.2-1B/lora") == recipe_path("llama-3.2-1b/lora.yaml")
    assert read_settings("llama-3.2-1b/lora", lora_r=4).lora.r == 4
    with pytest.raises(ValueError, match=r"did you mean phi-3/qlora\?"):
        recipe_path("phi-3/qlor")
    with pytest.raises(ValueError, match="`llm recipes` lists them"):
        recipe_path("../../settings")
