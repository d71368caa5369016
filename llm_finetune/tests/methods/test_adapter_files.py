"""Adapters of strangers: what can't be honoured, damaged files, and those of other models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_finetune.adapter_file import read_adapter
from llm_finetune.lora_settings import Lora
from llm_finetune.peft_format import apply, write_adapter
from llm_sepweight import WeightsError

from .dense import WIDE, ours


@pytest.fixture
def written(load: Any, folder: Any, tmp_path: Path) -> Path:
    write_adapter(tmp_path / "adapter", ours(load, "llama", WIDE), WIDE, base=str(folder("llama")))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "LOHA"}, "LORA alone is read"),
        ({"peft_type": None}, "LORA alone is read"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
        ({"target_parameters": ["x"]}, "target_parameters is set"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"tomorrow": 3}, "tomorrow is set"),
        ({"bias": "all"}, "trained biases"),
        ({"init_lora_weights": "pissa"}, "changes the base model"),
        ({"r": 4}, "not of the rank 4"),
        ({"r": True}, "whole number"),
        ({"r": 10**9}, "whole number"),
        ({"lora_alpha": float("nan")}, "number"),
        ({"lora_alpha": "16"}, "lora_alpha must be a number"),
        ({"lora_dropout": 2}, "dropout is a share"),
        ({"use_dora": 1}, "true or false"),
        ({"use_dora": True}, "must have A, B and magnitudes"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "regular expression"),
        ({"alpha_pattern": [1]}, "must be an object"),
        ({"rank_pattern": {"q_proj": 9}}, "not of the rank 9"),
        ({"base_model_name_or_path": 3}, "must be a string"),
    ],
)
def test_a_config_that_cannot_be_honoured(written: Path, change: dict[str, Any], said: str) -> None:
    file = written / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(WeightsError, match=said) as caught:
        read_adapter(written)
    assert str(written) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3, 2)}, "no tensor of LoRA"),
        (lambda t: t | {"model.x.lora_A.weight": torch.ones(3, 2)}, "no tensor of LoRA"),
        (lambda t: dict(list(t.items())[1:]), "must have A and B"),
        (lambda t: {name: each.to(torch.int64) for name, each in t.items()}, "no floating"),
        (lambda t: {name: each[None].contiguous() for name, each in t.items()}, "not of the rank"),
        (lambda t: {}, "no factors"),
    ],
)
def test_tensors_that_are_none(written: Path, change: Any, said: str) -> None:
    file = written / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(WeightsError, match=said):
        read_adapter(written)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("[", "object of lists"),
        ("[1]", "object of lists"),
        ('{"x": ["q"]}', "doesn't hold"),
        ('{"PATH": [1]}', "doesn't hold"),
        ('{"PATH": ["up"]}', "doesn't fit"),
        ('{"PATH": ["q", "q", "q"]}', "doesn't fit"),
        ('{"PATH": ["k"]}', "beyond the parts"),
    ],
)
def test_parts_of_a_stranger(load: Any, tmp_path: Path, parts: str, said: str) -> None:
    lora = Lora(targets=("mid.0.*.qkv.q",), r=3)
    write_adapter(tmp_path / "adapter", ours(load, "phi3", lora), lora, base="x")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    path = "model.layers.0.self_attn.qkv_proj"
    save_file(load_file(file), file, metadata={"llm_finetune.parts": parts.replace("PATH", path)})
    with pytest.raises(ValueError, match=said):
        apply(load("phi3"), read_adapter(file.parent))


def test_a_pickled_adapter_is_refused(written: Path) -> None:
    (written / "adapter_model.safetensors").rename(written / "adapter_model.bin")
    with pytest.raises(WeightsError, match="pickled files aren't read"):
        read_adapter(written)


def test_the_adapter_of_another_model(load: Any, written: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no linear layer of this architecture"):
        apply(load("gpt2"), read_adapter(written))
    with pytest.raises(ValueError, match="32 inputs and 16 outputs, which is another layer"):
        apply(load("tied"), read_adapter(written))
    with pytest.raises(ValueError, match="which this model doesn't have"):
        apply(load("llama", part="b 0-1"), read_adapter(written))


def test_writing(load: Any, written: Path) -> None:
    model = ours(load, "llama", WIDE)
    with pytest.raises(WeightsError, match="isn't overwritten"):
        write_adapter(written, model, WIDE, base="x")
    with pytest.raises(ValueError, match="no adapter 'other'; there are default"):
        write_adapter(written / "more", model, WIDE, base="x", name="other")
