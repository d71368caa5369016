"""`llm download list`: the installed families and well-known repositories, quickly and searchable."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_cli.app import run
from llm_cli.families import model_types
from llm_cli.models import HUB_ID
from llm_cli.repositories import TABLE, known_repositories, listed

# What the command is asked for by name, and the architecture that each is.
PROMISED = {
    "llama": "Llama-2 Meta-Llama-3 Llama-3.1 Llama-3.2 Llama-3.3 CodeLlama vicuna longchat Platypus StableBeluga2 "
    "Nous-Hermes open_llama TinyLlama MicroLlama function-calling Yi goliath Falcon3 SmolLM2 salamandra llama-68m "
    "llama-160m DeepSeek-R1-Distill",
    "mistral": "Mistral-7B Mathstral danube2",
    "mixtral": "Mixtral-8x7B Mixtral-8x22B",
    "qwen2": "Qwen2-7B Qwen2.5-7B",
    "qwen2_moe": "A2.7B A14B",
    "qwen3": "Qwen3-0.6B",
    "qwen3_moe": "A3B",
    "gemma": "gemma-2b codegemma",
    "gemma2": "gemma-2-2b",
    "gemma3_text": "gemma-3-1b",
    "gemma3": "gemma-3-4b",
    "olmo": "OLMo-1B",
    "olmo2": "OLMo-2",
    "stablelm": "stablelm-3b-4e1t zephyr stable-code",
    "smollm3": "SmolLM3",
    "granite": "granite",
    "deepseek_v2": "V2",
    "deepseek_v3": "V3 R1",
    "falcon": "falcon-7b falcon-40b falcon-180B falcon-rw",
    "phi": "phi-1 phi-1_5 phi-2",
    "phi3": "Phi-3-mini Phi-3.5-mini phi-4 Phi-4-mini",
    "phimoe": "MoE",
    "gpt_neox": "pythia dolly-v2 RedPajama-INCITE stablelm-base-alpha stablecode",
    "gpt2": "gpt2",
    "gptj": "gpt-j",
}


@pytest.mark.parametrize("name", PROMISED)
def test_each_promised_name_has_a_repository_of_its_architecture(name: str) -> None:
    assert name in model_types()
    for word in PROMISED[name].split():
        assert any(word in repository for repository in TABLE[name].repositories), word


def test_repositories_are_hub_ids_and_each_is_listed_once() -> None:
    known = known_repositories()
    assert all(HUB_ID.fullmatch(repository) for repository in known)
    assert len({repository.lower() for repository in known}) == len(known)


def lines(capsys: Any, *argv: str) -> list[str]:
    assert run(["download", "list", *argv]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_installed_architecture_is_named_with_what_it_is_for(capsys: Any) -> None:
    found = lines(capsys)
    heads = {line.partition(":")[0] for line in found if not line.startswith(" ") and ":" in line}
    assert heads == set(model_types())
    assert "  HuggingFaceTB/SmolLM2-135M-Instruct" in found
    assert found[-1] == "any other repository whose model_type is one of these works too"
    assert run(["download", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["families"]
    assert told.keys() == heads
    assert told["phi"] == {"models": TABLE["phi"].models, "repositories": list(TABLE["phi"].repositories)}


@pytest.mark.parametrize(
    ("words", "types", "repository", "other"),
    [
        ("qwen3_moe", {"qwen3_moe"}, "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-0.6B"),
        ("danube", {"mistral"}, "h2oai/h2o-danube2-1.8b-chat", "mistralai/Mistral-7B-v0.1"),
        ("Phi 2", {"phi"}, "microsoft/phi-2", "microsoft/phi-1"),
        ("google/", {"gemma", "gemma2", "gemma3", "gemma3_text"}, "google/gemma-2-2b", "Qwen/Qwen2-7B"),
        ("Danube 2", {"mistral"}, "mistralai/Mistral-7B-v0.1", "Qwen/Qwen2-7B"),
    ],
)
def test_words_choose(capsys: Any, words: str, types: set[str], repository: str, other: str) -> None:
    found = lines(capsys, words)
    assert {line.partition(":")[0] for line in found[:-1] if not line.startswith(" ")} == types
    assert f"  {repository}" in found
    assert f"  {other}" not in found


def test_words_that_are_nowhere_name_the_nearest(capsys: Any) -> None:
    assert run(["download", "list", "smollmm3"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "no family or well-known repository has 'smollmm3' in its name; did you mean SmolLM3?" in said.err


def test_a_type_of_another_package_is_listed_without_repositories() -> None:
    found = listed(["llama", "of_my_own"])
    assert list(found) == ["llama", "of_my_own"]
    assert (found["of_my_own"].repositories, "package" in found["of_my_own"].models) == ((), True)


def test_a_second_repository_is_refused(capsys: Any) -> None:
    assert run(["download", "org/name", "org/other"]) == 2
    assert "one repository at a time" in capsys.readouterr().err


def test_the_list_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from llm_cli.app import run; run(['download', 'list', 'qwen']);"
        "sys.exit(bool({'torch', 'numpy', 'huggingface_hub', 'llm_blocks'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Qwen/Qwen2.5-0.5B" in done.stdout


def test_of_several_words_each_must_match(capsys: Any) -> None:
    """A second word was refused as a second repository."""
    found = lines(capsys, "pythia", "70m")
    assert found[1:-1] == ["  EleutherAI/pythia-70m", "  EleutherAI/pythia-70m-deduped"]
    assert run(["download", "list", "pythia", "gpt2"]) == 1
    assert "has 'pythia' and 'gpt2' in its name; give fewer words" in capsys.readouterr().err
    assert run(["download", "list", "qwen", "smollmm3"]) == 1
    assert "has 'smollmm3' in its name; did you mean SmolLM3?" in capsys.readouterr().err


def test_every_name_that_our_packages_know_is_in_the_table() -> None:
    """`stablelm_epoch` was said to be of a package that is no part of this family."""
    assert set(model_types()) <= set(TABLE)


def test_a_name_without_its_owner_points_to_the_list(capsys: Any) -> None:
    assert run(["download", "qwen"]) == 1
    assert "'qwen' names no repository; write org/name, or find one with `llm download list qwen`" in (
        capsys.readouterr().err
    )


def test_two_revisions_are_refused(capsys: Any) -> None:
    assert run(["download", "https://huggingface.co/org/tiny/tree/dev", "--revision", "v1"]) == 2
    assert "revision 'dev' and --revision says 'v1'" in capsys.readouterr().err
