"""Nearest names, and secrets that no text may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_cli.errors import UsageError, nearest, redact, secrets, usage


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
