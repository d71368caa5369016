"""Nearest names, and secrets that no text may hold."""

from __future__ import annotations

import errno
import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_cli.errors import UsageError, explain, nearest, redact, secrets, usage


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("genrate", "generate"),
        ("tpo_p", "top_p"),
        ("top_p", "top_p"),
        ("Top-K", "top_k"),
        ("x", None),
        ("convret", "convert"),
        ("serve", None),
    ],
)
def test_the_nearest_name_or_none(name: str, found: str | None) -> None:
    assert nearest(name, ["generate", "convert", "top_p", "top_k", "stop"]) == found


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("models/nope", "models/phi", None),
        ("a/long/way/to/x", "a/long/way/to/y", None),
        ("out/finel", "out/final", "out/final"),
        ("llava", "llama", None),
        ("qwen2_vl", "qwen2", None),
        ("hff", "hf", "hf"),
    ],
)
def test_what_only_shares_a_folder_or_a_beginning_is_no_misspelling(name: str, known: str, found: str | None) -> None:
    assert nearest(name, [known]) == found


@given(st.text(min_size=1, max_size=12), st.lists(st.text(max_size=12), max_size=6))
def test_a_known_name_is_nearest_to_itself(name: str, others: list[str]) -> None:
    found = nearest(name, [*others, name])
    assert found is not None
    assert found.lower() == name.lower()


def test_no_known_names() -> None:
    assert nearest("generate", []) is None


def test_tokens_of_command_line_and_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    argv = ["download", "x", "--access-token", "hf_one", "--access_token=hf_two"]
    text = redact("hf_one, hf_two, hf_environment and hf_three", secrets(argv))
    assert text == "***, ***, *** and hf_three"


def test_an_option_without_its_value_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert redact("text", secrets(["--access_token"])) == "text"


def test_wrong_values_of_the_command_line_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="top_p"), usage():
        raise ValueError("top_p must be above 0")


def test_the_system_speaks_of_a_path_as_it_is_written() -> None:
    error = FileNotFoundError(errno.ENOENT, "There is no folder 'Out'", "Out/x.gguf")
    assert explain(error) == "cannot use 'Out/x.gguf': there is no folder 'Out'; check the path"


def import_error(module: str) -> ImportError:
    with pytest.raises(ImportError) as caught:
        importlib.import_module(module)
    return caught.value


@pytest.mark.parametrize("module", ["llm_blocks.absent", "llm_blocks.names.absent", "llm_absent", "llm_absent.gguf"])
def test_a_missing_module_of_ours_is_never_fetched_by_its_name(module: str) -> None:
    """The command advised `pip install llm_blocks.gguf`, a name that anybody may take in the index."""
    package, said = module.partition(".")[0], explain(import_error(module))
    assert f"the installed {package} is incomplete or of another version" in said
    assert f"`python -m pip install ./{package}`" in said


def test_a_name_that_a_module_of_ours_lacks_is_a_package_that_is_too_old() -> None:
    error = ImportError("cannot import name 'absent' from 'llm_blocks.names'", name="llm_blocks.names")
    assert "install it again from this project's repository" in explain(error)


@pytest.mark.parametrize(
    ("module", "advice"),
    [("absent_module.inner", "`python -m pip install absent_module`"), ("rich.absent", "pip install --upgrade rich`")],
)
def test_a_missing_module_of_others_is_a_distribution_to_install(module: str, advice: str) -> None:
    assert advice in explain(import_error(module))
