"""Layouts into one another: every byte kept, whole or not at all, told apart by content."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import llm_blocks
import llm_blocks.testing
import llm_sepweight
from llm_cli import conversion
from llm_cli.app import run

CONFIG = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": [2, 3],
}


def make(path: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """A small Llama as a Hugging Face folder with a tokenizer file beside the weights."""
    raw = {**CONFIG, "tie_word_embeddings": tied}
    config = llm_blocks.find("llama").Config.from_hf(raw)
    llm_blocks.save(llm_blocks.new_model(config, seed=seed), path)
    (path / "config.json").write_text(json.dumps(raw))
    (path / "merges.txt").write_text("#version: 0.2\n")
    (path / "README.md").write_text("not copied")
    return path


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make(tmp_path / "source")


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """dtype, shape and digest of each tensor of a Hugging Face folder, over all of its shards."""
    found: dict[str, tuple[str, tuple[int, ...], str]] = {}
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            digest = hashlib.sha256(tensor.view(torch.uint8).numpy().tobytes()).hexdigest()
            found[name] = (str(tensor.dtype), tuple(tensor.shape), digest)
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_to_sepweight_and_back_keeps_every_byte(tmp_path: Path, tied: bool, capsys: Any) -> None:
    source = make(tmp_path / "source", tied=tied)
    assert run(["convert", str(source), str(tmp_path / "sep")]) == 0
    assert run(["convert", str(tmp_path / "sep"), str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'sep'}\n{tmp_path / 'back'}\n"
    assert tensors(tmp_path / "back") == tensors(source)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == {**CONFIG, "tie_word_embeddings": tied}
    assert {path.name for path in (tmp_path / "back").iterdir()} == {"config.json", "merges.txt", "model.safetensors"}


def test_the_sepweight_folder_is_verified_and_loads_as_the_same_model(source: Path, tmp_path: Path) -> None:
    run(["convert", str(source), str(tmp_path / "sep")])
    llm_sepweight.verify(tmp_path / "sep")
    ids = torch.arange(8)[None]
    assert torch.equal(llm_blocks.load(tmp_path / "sep")(ids), llm_blocks.load(source)(ids))


def test_shards_are_cut_and_named_by_their_number(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "SHARD_BYTES", 3_000)
    assert run(["convert", str(source), str(tmp_path / "out"), "--to", "hf"]) == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files == [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    assert files == sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert tensors(tmp_path / "out") == tensors(source)


def test_dtype_is_converted_and_told_in_the_configuration(source: Path, tmp_path: Path) -> None:
    assert run(["convert", str(source), str(tmp_path / "out"), "--to", "hf", "--dtype", "bfloat16"]) == 0
    assert {dtype for dtype, _, _ in tensors(tmp_path / "out").values()} == {"torch.bfloat16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_meta_folder(source: Path, tmp_path: Path) -> None:
    """Meta's files turn neighbouring dimensions, so q and k rows change places on the way in."""
    model = llm_blocks.load(source)
    (tmp_path / "meta").mkdir()
    torch.save(_as_meta(model), tmp_path / "meta" / "consolidated.00.pth")
    params = {"dim": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 32, "norm_eps": 1e-5}
    (tmp_path / "meta" / "params.json").write_text(json.dumps({**params, "multiple_of": 8}))
    assert run(["convert", str(tmp_path / "meta"), str(tmp_path / "out")]) == 0
    ids = torch.arange(8)[None]
    assert torch.equal(llm_blocks.load(tmp_path / "out")(ids), model(ids))


def _as_meta(model: Any) -> dict[str, torch.Tensor]:
    renamed = {"attention.q": "attention.wq", "attention.k": "attention.wk", "attention.v": "attention.wv"}
    renamed |= {"attention.o": "attention.wo", "mlp.gate": "feed_forward.w1", "mlp.down": "feed_forward.w2"}
    renamed |= {"mlp.up": "feed_forward.w3", "mlp_norm": "ffn_norm", "attention_norm": "attention_norm"}
    found: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        key = name.removeprefix("begin.").removeprefix("end.").replace("mid.", "layers.")
        key = key.replace("embed.", "tok_embeddings.").replace("head.", "output.")
        for ours, theirs in renamed.items():
            key = key.replace(ours + ".weight", theirs + ".weight")
        if name.endswith(("attention.q.weight", "attention.k.weight")):
            value = value.unflatten(0, (-1, 2, 2)).transpose(1, 2).reshape(value.shape)
        found[key] = value.clone()
    return found


@pytest.fixture
def stories() -> Path:
    if "LLM_TEST_DATA" not in os.environ:
        pytest.skip("LLM_TEST_DATA is not set")
    return Path(os.environ["LLM_TEST_DATA"]) / "models" / "stories260K"


@pytest.mark.parametrize("layout", ["hf", "sepweight"])
def test_llama2c_continues_exactly_as_recorded(
    stories: Path, greedy_ids: list[int], tmp_path: Path, layout: str, capsys: Any
) -> None:
    argv = ["convert", str(stories / "stories260K.bin"), str(tmp_path / "out"), "--to", layout]
    assert run([*argv, "--tokenizer", str(stories / "tok512.model")]) == 0
    capsys.readouterr()
    argv = ["generate", str(tmp_path / "out"), "--prompt_ids", "1", "--temperature", "0", "--precision", "32-true"]
    assert run([*argv, "--max_new_tokens", str(len(greedy_ids)), "--ignore_eos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["token_ids"] == greedy_ids


def test_llama2c_configuration_knows_the_tokenizers_ends(stories: Path, tmp_path: Path) -> None:
    argv = ["convert", str(stories / "stories260K.bin"), str(tmp_path / "out")]
    assert run([*argv, "--tokenizer", str(stories / "tok512.model")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["dtype"]) == (1, 2, "float32")


def test_a_tokenizer_of_another_model(stories: Path, source: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["convert", str(source), "out", "--tokenizer", str(stories / "tok512.model")]) == 1
    assert "has 512 tokens and the model 32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def refused(capsys: Any, tmp_path: Path, src: Path, words: str) -> None:
    """The conversion ends in one sentence, exit code 1 and no folder."""
    before = set(tmp_path.iterdir())
    assert run(["convert", str(src), str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1), said.err
    assert words in said.err
    assert set(tmp_path.iterdir()) == before


def test_a_complete_folder_is_never_overwritten(source: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(["convert", str(source), "out"]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    refused(capsys, tmp_path, source, "exists already")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_missing_source(tmp_path: Path, capsys: Any) -> None:
    refused(capsys, tmp_path, tmp_path / "absent", "there is no model")


def test_a_truncated_shard(source: Path, tmp_path: Path, capsys: Any) -> None:
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(capsys, tmp_path, source, "model.safetensors")


def test_a_wrong_shape(source: Path, tmp_path: Path, capsys: Any) -> None:
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(17)
    save_file(weights, source / "model.safetensors")
    refused(
        capsys, tmp_path, source, "model.safetensors: model.norm.weight (here end.norm.weight) has shape (17,), config"
    )


def test_a_missing_tensor(source: Path, tmp_path: Path, capsys: Any) -> None:
    weights = load_file(source / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, source / "model.safetensors")
    refused(capsys, tmp_path, source, "lacks model.norm.weight (here end.norm.weight)")


def test_a_tensor_of_another_architecture(source: Path, tmp_path: Path, capsys: Any) -> None:
    weights = load_file(source / "model.safetensors") | {"model.layers.0.conv.weight": torch.ones(1)}
    save_file(weights, source / "model.safetensors")
    refused(capsys, tmp_path, source, "model.layers.0.conv.weight")


def test_an_unknown_model_type(source: Path, tmp_path: Path, capsys: Any) -> None:
    (source / "config.json").write_text(json.dumps({**CONFIG, "model_type": "lama"}))
    refused(capsys, tmp_path, source, "did you mean 'llama'")


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "alone.bin"])
def test_a_pickle_with_a_payload(source: Path, tmp_path: Path, capsys: Any, name: str) -> None:
    (source / "model.safetensors").unlink()
    torch.save({"x": Payload()}, source / name)
    if name.startswith("consolidated"):
        (source / "config.json").rename(source / "params.json")
    refused(capsys, tmp_path, source / name if name == "alone.bin" else source, name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 10, b"\0" * 100, struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512), b"text"]
)
def test_a_file_that_is_no_llama2c(tmp_path: Path, capsys: Any, content: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    refused(capsys, tmp_path, tmp_path / "model.bin", "model.bin")


def test_a_write_that_fails_leaves_nothing(source: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conversion, "write_json", full)
    refused(capsys, tmp_path, source, "free some space")


def test_a_flipped_byte_is_not_copied_under_new_checksums(source: Path, tmp_path: Path, capsys: Any) -> None:
    """A damaged sepweight folder became one that verified as sound."""
    assert run(["convert", str(source), str(tmp_path / "sep"), "--to", "sepweight"]) == 0
    file = tmp_path / "sep" / "mid.00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    capsys.readouterr()
    assert run(["convert", str(tmp_path / "sep"), str(tmp_path / "again"), "--to", "sepweight"]) == 1
    assert "mid.00001.safetensors: damaged" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("command", ["convert", "export"])
def test_the_text_part_of_a_model_that_sees_images_is_a_model_of_text(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy lacks what sees, so a config.json that promised it would make readers invent it, and the text too."""
    seeing, copy = tmp_path / "seeing", tmp_path / "copy"
    text = {
        "model_type": "gemma3_text",
        "vocab_size": 99,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "query_pre_attn_scalar": 8,
        "rms_norm_eps": 1e-6,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, "vision_use_head": False}
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": vision, "mm_tokens_per_image": 1}
    whole |= {"boi_token_index": 90, "eoi_token_index": 91, "image_token_index": 98, "eos_token_id": [1, 106]}
    reference = llm_blocks.testing.tiny_reference(whole, seeing)
    ids = torch.randint(0, 80, (1, 12))
    if command == "convert":
        assert run(["convert", str(seeing), str(tmp_path / "between")]) == 0
        assert run(["convert", str(tmp_path / "between"), str(copy)]) == 0
    else:
        assert run(["export", "hf", str(seeing), "--out", str(copy)]) == 0
    assert "tensors (multi_modal_projector, vision_tower), which this project has no use" in capsys.readouterr().err
    config = json.loads((copy / "config.json").read_text())
    assert (config["model_type"], config["eos_token_id"]) == ("gemma3_text", [1, 106])
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(copy)(ids).logits
        torch.testing.assert_close(theirs, reference(ids).logits, rtol=1e-5, atol=1e-5)
