"""`llm info` and `llm doctor` tell what is there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import llm_blocks
from llm_cli.app import run
from llm_cli.diagnosis import diagnose, problems

SHAPE = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "model_type": "llama"}
LINEAR = 2 * (16 * 16 * 2 + 8 * 16 * 2 + 24 * 16 * 3)
PARAMETERS = LINEAR + 32 * 16 + 2 * 2 * 16 + 16


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tied Llama in float32."""
    monkeypatch.chdir(tmp_path)
    config = llm_blocks.find("llama").Config.from_hf({**SHAPE, **HEADS, "tie_word_embeddings": True})
    llm_blocks.save(llm_blocks.new_model(config), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_sizes_and_memory(folder: Path, capsys: Any) -> None:
    assert run(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found | {"architecture": "llama", "layers": 2, "context": 64, "vocabulary": 32} == found
    assert found | {"parameters": PARAMETERS, "dtypes": ["float32"], "tokenizer": None} == found
    assert found["bytes"] == (folder / "model.safetensors").stat().st_size
    cache = 2 * 2 * 2 * 4 * 1024  # K and V, layers, kv heads, head size, tokens
    assert found["memory"]["fp32"] == {"weights": 4 * PARAMETERS, "cache_per_1024_tokens": 4 * cache}
    assert found["memory"]["bf16"] == {"weights": 2 * PARAMETERS, "cache_per_1024_tokens": 2 * cache}
    rows = 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
    assert found["memory"]["int8"]["weights"] == LINEAR + 2 * rows + 2 * (PARAMETERS - LINEAR)
    assert found["memory"]["int4"]["weights"] == LINEAR // 2 + 2 * (LINEAR // 32) + 2 * (PARAMETERS - LINEAR)


def test_layouts_of_one_model_have_the_same_numbers(folder: Path, tmp_path: Path, capsys: Any) -> None:
    run(["convert", str(folder), str(tmp_path / "sep")])
    capsys.readouterr()
    found = []
    for path in (folder, tmp_path / "sep"):
        assert run(["info", str(path), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [one["layout"] for one in found] == ["safetensors", "sepweight"]
    assert found[0]["memory"] == found[1]["memory"]
    assert found[1]["files"] == 4


def test_text_for_people(folder: Path, capsys: Any) -> None:
    assert run(["info", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["parameters", f"{PARAMETERS:,}"] for line in lines)
    assert any(line.split() == ["tokenizer", "none"] for line in lines)
    assert any(line.startswith("int4") for line in lines)


def test_tokenizer_of_a_real_model(tmp_path: Path, capsys: Any) -> None:
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set")
    stories = Path(os.environ["LLM_TEST_DATA"]) / "models" / "stories260K"
    argv = ["convert", str(stories / "stories260K.bin"), str(tmp_path / "out")]
    assert run([*argv, "--tokenizer", str(stories / "tok512.model")]) == 0
    capsys.readouterr()
    assert run(["info", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 260_032
    expected = {"kind": "tokenizer.model", "tokens": 512, "bos_id": 1, "end_ids": [2], "chat_template": False}
    assert found["tokenizer"] == expected
    assert run(["info", str(stories / "stories260K.bin"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 260_032


def test_a_tokenizer_that_cannot_be_read_does_not_hide_the_rest(folder: Path, capsys: Any) -> None:
    """`llm info` of a Llama 3 as Meta publishes it ended with what is wrong with its tokenizer, and told nothing."""
    (folder / "tokenizer.model").write_bytes(b"aGVsbG8= 0\nd29ybGQ= 1\n")
    assert run(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == PARAMETERS
    assert found["tokenizer"]["kind"] == "tokenizer.model"
    assert "tiktoken" in found["tokenizer"]["problem"]
    assert run(["info", str(folder)]) == 0
    assert "tokenizer.model, which can't be read: " in capsys.readouterr().out


def test_doctor_as_json_has_every_section(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_cli.diagnosis.other_command", lambda: None)
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"versions", "devices", "cpu", "compiler", "paths", "space", "problems"}
    assert "llama" in found["versions"]["architectures"]
    assert found["versions"]["torch"].split(".")[0].isdigit()


def test_doctor_works_where_torch_does_not_load(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended with the very error that it is asked to explain."""
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert any("torch does not load" in problem for problem in found["problems"])
    assert found["devices"] == {}
    assert found["cpu"]["cores"] == os.cpu_count()


def test_doctor_never_tells_the_token(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_thisIsASecretOfTheTests")
    run(["doctor"])
    assert "hf_thisIsASecretOfTheTests" not in capsys.readouterr().out


def test_doctor_tells_another_llm_and_what_is_missing() -> None:
    found = diagnose()
    found["paths"]["other llm"] = "the installed package 'llm' also provides a command called llm"
    found["paths"]["demo model"] = None
    found["versions"] |= {"architectures": [], "torch": None}
    wrong = problems(found)
    assert [sentence.split(";")[0] for sentence in wrong] == [
        "the installed package 'llm' also provides a command called llm",
        "no architecture is installed",
        "torch is not installed",
        "the model that ships inside is missing",
    ]
