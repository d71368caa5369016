"""`llm info` and `llm doctor` tell what is there."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llm_blocks
from llm_cli.app import run
from llm_cli.checkpoints import open_checkpoint
from llm_cli.conversion import told
from llm_cli.description import describe
from llm_cli.diagnosis import diagnose, problems

SHAPE = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "rms_norm_eps": 1e-5}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "model_type": "llama"}
WINDOWED = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "sliding_window": 32,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
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


def made(folder: Path, model_type: str, /, **keys: Any) -> dict[str, Any]:
    """What is told of a small random model of an architecture."""
    config = llm_blocks.find(model_type).Config.from_hf({"model_type": model_type, **keys})
    llm_blocks.save(llm_blocks.new_model(config), folder / model_type)
    return describe(folder / model_type)


def test_experts_are_counted_by_what_a_token_uses(tmp_path: Path, capsys: Any) -> None:
    """Their matrices counted as unquantized, and nothing told of experts, heads or windows."""
    found = made(tmp_path, "mixtral", **SHAPE, **WINDOWED, num_local_experts=8, num_experts_per_tok=2)
    experts = 2 * 8 * 3 * 24 * 16
    assert found | {"heads": 4, "kv_heads": 2, "experts": 8, "experts_per_token": 2} == found
    assert found["active_parameters"] == found["parameters"] - experts * 6 // 8
    assert found | {"sliding_window": 32, "windowed_layers": 2} == found
    attention = 2 * (16 * 16 * 2 + 8 * 16 * 2)
    quantized = experts + attention + 32 * 16  # and head; routers stay
    scales = 2 * 8 * (2 * 24 + 16) + 2 * (16 + 8 + 8 + 16) + 32
    assert found["memory"]["int8"]["weights"] == quantized + 2 * scales + 2 * (found["parameters"] - quantized)
    assert run(["info", str(tmp_path / "mixtral")]) == 0
    rows = {line.split("  ")[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if line}
    assert (rows["experts per token"], rows["sliding window"]) == ("2", "32")


def test_transposed_matrices_count_as_matrices(tmp_path: Path) -> None:
    """GPT-2's are no torch.nn.Linear, so only its head was counted."""
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
    found = made(tmp_path, "gpt2", **sizes)
    quantized, scales = 2 * 12 * 16 * 16, 2 * (3 * 16 + 16 + 4 * 16 + 16)
    assert found["memory"]["int8"]["weights"] == quantized + 2 * scales + 2 * (found["parameters"] - quantized)
    assert found | {"heads": 4, "kv_heads": None, "experts": None, "sliding_window": None} == found


def test_the_table_says_how_to_quantize(folder: Path, capsys: Any) -> None:
    run(["info", str(folder)])
    assert capsys.readouterr().out.splitlines()[-1].endswith("`llm quantize` writes such a folder")


def test_tensors_of_no_use_are_told(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("model.vision_tower.a.weight", "vision_tower.b", "multi_modal_projector.c", "model.layers.61.norm.weight")
    checkpoint = replace(open_checkpoint(folder), left_out=names)
    monkeypatch.setattr("llm_cli.description.open_checkpoint", lambda *_, **__: checkpoint)
    run(["info", str(folder)])
    assert "left out         4 tensors (vision_tower, multi_modal_projector, layers.61)" in capsys.readouterr().out


def test_countless_tensors_of_no_use_are_told_in_a_sentence(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parts were listed, and a layer's number of any length."""
    names = (*(f"tower{i}.a" for i in range(20_000)), f"model.layers.{'9' * 100_000}.a", f"{'x' * 100_000}.a")
    checkpoint = replace(open_checkpoint(folder), left_out=names)
    assert {len(part) for part in checkpoint.parts_left_out[-2:]} == {200}
    (line,) = (line for line in told(checkpoint, "hf", folder) if line.startswith("left out"))
    assert line.endswith("tower19 and 19982 more), which this project has no use for")
    monkeypatch.setattr("llm_cli.description.open_checkpoint", lambda *_, **__: checkpoint)
    assert describe(folder)["left_out"]["prefixes"] == [f"tower{i}" for i in range(20)]
    run(["info", str(folder)])
    assert "20,002 tensors (tower0, " in (said := capsys.readouterr().out)
    assert "tower19 and 19,982 more)" in said


def test_files_that_tell_different_numbers_of_layers_are_named(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """It was "part spec 'b 0-1' asks for layers", which nobody had given."""
    run(["convert", str(folder), str(tmp_path / "sep")])
    config = tmp_path / "sep" / "config.json"
    for layers, gone in ((1, "end"), (3, "begin")):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": layers}))
        (tmp_path / "sep" / f"{gone}.safetensors").unlink()
        capsys.readouterr()
        assert run(["info", str(tmp_path / "sep")]) == 1
        assert f"sep: sepweight.json says 2 layers and config.json {layers}; " in capsys.readouterr().err


def test_a_part_of_a_model_is_described(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """What one host holds was refused, for what the others hold."""
    run(["convert", str(folder), str(tmp_path / "sep")])
    whole = describe(tmp_path / "sep")
    for name in ("mid.00001", "end"):
        (tmp_path / "sep" / f"{name}.safetensors").unlink()
    part = describe(tmp_path / "sep")
    assert (whole["part"], part["part"], part["layers"], part["files"]) == (None, "b 0-1 of 2 layers", 2, 2)
    assert part["parameters"] == 32 * 16 + (PARAMETERS - 32 * 16 - 16) // 2
    cache = [found["memory"]["bf16"]["cache_per_1024_tokens"] for found in (part, whole)]
    assert 2 * cache[0] == cache[1]
    (tmp_path / "sep" / "begin.safetensors").unlink()
    assert describe(tmp_path / "sep")["part"] == "0-1 of 2 layers"
    capsys.readouterr()
    assert run(["convert", str(tmp_path / "sep"), str(tmp_path / "hf")]) == 1
    assert "mid.1.*" in capsys.readouterr().err


def test_a_whole_model_with_a_gap_is_no_part(folder: Path, tmp_path: Path, capsys: Any) -> None:
    run(["convert", str(folder), str(tmp_path / "sep")])
    (tmp_path / "sep" / "mid.00000.safetensors").unlink()
    assert run(["info", str(tmp_path / "sep")]) == 1
    assert "mid.0.*" in capsys.readouterr().err


def test_presets_are_listed(capsys: Any) -> None:
    """No command named them, and LLM.load(init="random") only for a wrong one."""
    assert run(["info", "--presets"]) == 0
    told = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert set(told["mixtral"].split(", ")) == set(llm_blocks.find("mixtral").PRESETS)
    assert "RefinedWeb" not in told  # another name of falcon
    assert run(["info", "--presets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["presets"].keys() == told.keys()
    assert run(["info", "demo", "--presets"]) == 2
