"""`llm export gguf`: what it writes, what it says, and what it refuses before anything is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file

import llm_blocks
from llm_cli import LLM, models
from llm_cli.app import run
from llm_cli.gguf import export as exporting

SHAPE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llm_cli.clash.other_command", lambda: None)


@pytest.fixture
def source(make: Any, byte_folder: Path, tmp_path: Path) -> Path:
    return make(SHAPE, tmp_path / "source", tokenizer=byte_folder)


def refused(capsys: Any, *argv: str) -> str:
    """What the command says; nothing must be there afterwards."""
    assert run(["export", "gguf", *argv, "--out", "refused.gguf"]) == 1
    assert not list(Path().glob("*refused*"))
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_the_model_that_ships_becomes_a_file(capsys: Any) -> None:
    assert run(["export", "gguf", "demo", "--out", "demo.gguf"]) == 0
    out, err = capsys.readouterr()
    assert out == "demo.gguf\n"
    assert "hf to gguf (bf16): 7.6 MB" in err
    reader = gguf.GGUFReader("demo.gguf")
    values = {name: field.contents() for name, field in reader.fields.items() if "tokens" not in name}
    assert values["general.architecture"] == "llama"
    assert values["general.name"] == "demo"
    assert values["llama.context_length"] == 1024
    assert values["llama.attention.head_count_kv"] == 2
    assert values["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    assert values["tokenizer.chat_template"].startswith("{{ bos_token }}{% for message in messages %}")
    assert (values["tokenizer.ggml.eos_token_id"], values["tokenizer.ggml.eot_token_id"]) == (1, 5)
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert values["tokenizer.ggml.add_eos_token"] is False
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.attn_q.weight"] == "BF16"
    assert "output.weight" not in kinds


def test_json_tells_what_was_written(source: Path, capsys: Any) -> None:
    assert run(["export", "gguf", str(source), "--out", "a.gguf", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "path": "a.gguf",
        "from": "hf",
        "to": "gguf",
        "dtype": "f16",
        "architecture": "llama",
        "tokenizer": "gpt2, gpt-2",
        "bytes": Path("a.gguf").stat().st_size,
        "notes": [],
    }


def rounded(tensor: torch.Tensor, type: str) -> torch.Tensor:
    return tensor.to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[type]).float()


@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0"])
def test_tensors_read_back_are_the_checkpoints_rounded_once(type: str, source: Path) -> None:
    """Queries and keys have the rows of a head in another order: its first half and its second in turn."""
    assert run(["export", "gguf", str(source), "--out", "a.gguf", "--dtype", type]) == 0
    found = {tensor.name: tensor for tensor in gguf.GGUFReader("a.gguf").tensors}
    own = load_file(source / "model.safetensors")
    pairs = {"q": [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]}
    q = own["model.layers.1.self_attn.q_proj.weight"].unflatten(0, (4, 16))[:, pairs["q"]].flatten(0, 1)
    k = own["model.layers.1.self_attn.k_proj.weight"].unflatten(0, (2, 16))[:, pairs["q"]].flatten(0, 1)
    expected = {
        "token_embd.weight": own["model.embed_tokens.weight"],
        "output.weight": own["lm_head.weight"],
        "blk.1.attn_q.weight": q,
        "blk.1.attn_k.weight": k,
        "blk.1.attn_v.weight": own["model.layers.1.self_attn.v_proj.weight"],
        "blk.0.attn_output.weight": own["model.layers.0.self_attn.o_proj.weight"],
        "blk.0.ffn_gate.weight": own["model.layers.0.mlp.gate_proj.weight"],
        "blk.0.ffn_up.weight": own["model.layers.0.mlp.up_proj.weight"],
    }
    for name, wanted in expected.items():
        tensor = found[name]
        assert tensor.tensor_type.name == type.upper()
        got = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        assert got.shape == wanted.shape
        if type == "q8_0":
            blocks = wanted.unflatten(-1, (-1, 32))
            step = blocks.abs().amax(-1, keepdim=True) / 127
            assert ((got.unflatten(-1, (-1, 32)) - blocks).abs() <= 0.51 * step + 127 * step * 2**-11).all()
        else:
            assert torch.equal(got, rounded(wanted, type))
    for name in ("blk.0.attn_norm.weight", "output_norm.weight"):
        assert found[name].tensor_type.name == "F32"
    norm = found["blk.0.ffn_norm.weight"].data
    assert np.array_equal(norm, own["model.layers.0.post_attention_layernorm.weight"].numpy())
    # rows of 80 numbers don't part into blocks of 32
    narrow = found["blk.0.ffn_down.weight"].tensor_type.name
    assert narrow == ("F16" if type == "q8_0" else type.upper())


def test_a_sepweight_folder_gives_the_same_file(source: Path) -> None:
    run(["convert", str(source), "sep/source"])
    for folder, out in ((str(source), "a.gguf"), ("sep/source", "b.gguf")):
        assert run(["export", "gguf", folder, "--out", out]) == 0
    assert Path("a.gguf").read_bytes() == Path("b.gguf").read_bytes()


def test_experts_that_are_stacked_on_disk_give_the_same_file(make: Any, byte_folder: Path, tmp_path: Path) -> None:
    raw = SHAPE | {"model_type": "mixtral", "num_local_experts": 11, "num_experts_per_tok": 2}
    raw |= {"intermediate_size": 32}
    source = make(raw, tmp_path / "one by one" / "model", tokenizer=byte_folder)
    stacked = tmp_path / "stacked" / "model"
    stacked.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (stacked / file.name).write_bytes(file.read_bytes())
    tensors, model = load_file(source / "model.safetensors"), llm_blocks.load(source)
    kept = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer, block in model.mid.items():
        kept[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = block.mlp.experts.gate_up.detach().clone()
        kept[f"model.layers.{layer}.mlp.experts.down_proj"] = block.mlp.experts.down.detach().clone()
    save_file(kept, stacked / "model.safetensors")
    for folder, out in ((source, "a.gguf"), (stacked, "b.gguf")):
        assert run(["export", "gguf", str(folder), "--out", out, "--dtype", "f32"]) == 0
    assert Path("a.gguf").read_bytes() == Path("b.gguf").read_bytes()
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader("a.gguf").tensors}
    for expert in (2, 10):
        own = tensors[f"model.layers.1.block_sparse_moe.experts.{expert}.w2.weight"].numpy()
        assert np.array_equal(found["blk.1.ffn_down_exps.weight"][expert], own)


def test_nothing_is_overwritten(source: Path, capsys: Any) -> None:
    Path("there.gguf").write_text("mine")
    assert run(["export", "gguf", str(source), "--out", "there.gguf"]) == 1
    assert "exists already and isn't overwritten" in capsys.readouterr().err
    assert Path("there.gguf").read_text() == "mine"


def test_one_tensor_is_in_memory_at_a_time(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read when its turn comes to be written, and none is kept."""
    events: list[str] = []
    read, write = exporting.Entry.read, gguf.GGUFWriter.write_tensor_data
    monkeypatch.setattr(exporting.Entry, "read", lambda self: (events.append("read"), read(self))[1])
    monkeypatch.setattr(
        gguf.GGUFWriter, "write_tensor_data", lambda self, data: (events.append("write"), write(self, data))[1]
    )
    assert run(["export", "gguf", str(source), "--out", "a.gguf"]) == 0
    assert events == ["read", "write"] * (len(events) // 2)


def test_without_the_extra_one_sentence_tells_how_to_get_it(
    source: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "python -m pip install gguf" in refused(capsys, str(source))


def test_a_model_that_llama_cpp_does_not_run_is_refused(
    make: Any, byte_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    raw = {"model_type": "gptj", "vocab_size": 288, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64}
    folder = make(raw | {"rotary_dim": 16}, tmp_path / "gptj", tokenizer=byte_folder)
    said = refused(capsys, str(folder))
    assert "llama.cpp doesn't run any GPT-J" in said
    assert "llm export hf" in said


def test_a_number_beyond_half_precision_is_refused(source: Path, capsys: Any) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = 1e5
    save_file(tensors, source / "model.safetensors")
    said = refused(capsys, str(source), "--dtype", "f16")
    assert "blk.1.ffn_up.weight has a number of 1e+05, too large for its type; take --dtype bf16" in said
    assert run(["export", "gguf", str(source), "--out", "a.gguf", "--dtype", "bf16"]) == 0


def test_a_damaged_checkpoint_is_refused(source: Path, capsys: Any) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, source / "model.safetensors")
    assert "infinite or none at all, so the checkpoint is damaged" in refused(capsys, str(source))


def test_a_folder_without_a_tokenizer_needs_one(source: Path, byte_folder: Path, capsys: Any) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    assert "has no tokenizer, which a GGUF file needs; give one with --tokenizer" in refused(capsys, str(source))
    assert run(["export", "gguf", str(source), "--out", "a.gguf", "--tokenizer", str(byte_folder)]) == 0


def test_the_name_tells_llama_cpp_whether_special_tokens_take_white_space_along(
    make: Any, byte_folder: Path, tmp_path: Path
) -> None:
    """Regression: a Phi-3 by name without "</s>" in its vocabulary doesn't load in llama.cpp, which looks for it."""
    folder = make(SHAPE, tmp_path / "my-Phi-3-tune", tokenizer=byte_folder)
    assert run(["export", "gguf", str(folder), "--out", "a.gguf"]) == 0
    assert gguf.GGUFReader("a.gguf").fields["general.name"].contents() == "my-Phi 3-tune"


def test_swallowing_tokens_make_a_phi_3_by_name(make: Any, byte_folder: Path, tmp_path: Path) -> None:
    folder = make(SHAPE, tmp_path / "tune", tokenizer=byte_folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    for i, content in enumerate(("<unk>", "<|endoftext|>", "<|user|>"), start=258):
        flags = {"single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True}
        data["added_tokens"].append({"id": i, "content": content, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert run(["export", "gguf", str(folder), "--out", "a.gguf"]) == 0
    assert gguf.GGUFReader("a.gguf").fields["general.name"].contents() == "tune (phi-3)"


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["Tell me a story about a duck.", "What do llamas eat?"])
def test_the_model_that_ships_says_the_same_in_llama_cpp(prompt: str, llama_cpp: Any) -> None:
    """With its chat template, greedily, to its own end of turn."""
    assert run(["export", "gguf", "demo", "--out", "demo.gguf", "--dtype", "f32"]) == 0
    ours = LLM.load(models.demo_folder(), distribute=None)
    ours.distribute(accelerator="cpu", precision="32-true")
    theirs = llama_cpp.Llama("demo.gguf", n_ctx=1024, n_threads=1, verbose=False)
    answer = theirs.create_chat_completion(
        [{"role": "user", "content": prompt}], temperature=0, repeat_penalty=1.0, max_tokens=500
    )
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"] == ours.generate(prompt, max_new_tokens=500, temperature=0)
    theirs.close()


@pytest.mark.slow
def test_stories260k_says_the_same_in_llama_cpp(test_data: Path, greedy_ids: list[int], llama_cpp: Any) -> None:
    """From the files of llama2.c, which have another layout: 200 ids of its greedy continuation."""
    source = test_data / "models" / "stories260K"
    argv = [str(source / "stories260K.bin"), "--tokenizer", str(source / "tok512.model")]
    assert run(["export", "gguf", *argv, "--out", "stories.gguf", "--dtype", "f32"]) == 0
    theirs = llama_cpp.Llama("stories.gguf", n_ctx=512, n_threads=1, verbose=False)
    said = []
    for token in theirs.generate([1], temp=0.0, top_k=1, repeat_penalty=1.0):
        said.append(token)
        if len(said) == 200:
            break
    assert said == greedy_ids[: len(said)]
    theirs.close()
