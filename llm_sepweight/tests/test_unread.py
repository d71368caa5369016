"""Folders and files without weights that are read: each is named as what it is, with the way out."""

import os

import pytest
import torch
from safetensors.torch import save_file

import llm_sepweight
from llm_sepweight import WeightsError
from llm_sepweight.unread import why_unread


@pytest.mark.parametrize(
    ("files", "index"),
    [
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "model.safetensors.index.json"),
        (["pytorch_model-00001-of-00003.bin"], "pytorch_model.bin.index.json"),
    ],
)
def test_shards_without_their_index_name_the_file_to_get(tmp_path, files, index):
    """They were called "no weights here"."""
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(
        WeightsError, match=rf"{index}: missing, though the shard {files[0]}.* is there; .* get that file"
    ):
        llm_sepweight.open(tmp_path)


@pytest.mark.parametrize("config", ['{"base_model_name_or_path": "org/base"}', "{", "{}", None])
def test_an_adapter_is_told_from_a_model(tmp_path, config):
    save_file({"lora_A": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    if config is not None:
        (tmp_path / "adapter_config.json").write_text(config)
    base = " 'org/base'" if config and "org" in config else ""
    with pytest.raises(WeightsError, match=rf"an adapter \(PEFT\).*; give its base model{base}, or a folder .*merged"):
        llm_sepweight.open(tmp_path)


def test_gguf_is_named_as_what_it_is(tmp_path):
    (tmp_path / "tiny-q8_0.GGUF").touch()
    for path in (tmp_path, tmp_path / "tiny-q8_0.GGUF"):
        with pytest.raises(WeightsError, match=r"tiny-q8_0\.GGUF: GGUF files aren't read; .*original repository"):
            llm_sepweight.open(path)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "begin.safetensors",
        "begin.pth",
        "consolidated.00.pth",
    ],
)
def test_nothing_is_said_of_what_lies_beside_weights_that_are_read(tmp_path, name):
    """An index that was there was called missing, and a model.safetensors beside a GGUF file was one itself."""
    for other in ("model-00001-of-00002.safetensors", "tiny.gguf", "adapter_config.json"):
        (tmp_path / other).touch()
    assert why_unread(tmp_path) is not None
    (tmp_path / name).touch()
    assert why_unread(tmp_path) is None


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    """It was a bare PermissionError."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    for read in (why_unread, llm_sepweight.open):
        with pytest.raises(WeightsError, match=rf"{tmp_path}: can't be listed \(Permission denied\)"):
            read(tmp_path)
