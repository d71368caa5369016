"""Gemma 3 against transformers: the text model, and the text tower of the one that sees images."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import llm_blocks
from llm_blocks import testing
from llm_blocks.testing.suite import check_laws, check_parity
from llm_model_llama.gemma3 import Config

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "rope_theta": 20000.0,
    "rope_local_base_freq": 100.0,
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
}
NEW: dict[str, Any] = {
    "rope_theta": None,
    "rope_local_base_freq": None,
    "sliding_window_pattern": None,
    "_sliding_window_pattern": 6,
    "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
    "use_bidirectional_attention": False,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 5000.0}

FAMILY = testing.Family(
    model_type="gemma3_text",
    models="Gemma 3 (text of all sizes), MedGemma, FunctionGemma",
    features="normalised queries and keys, sliding window on five layers of six, two rotary bases",
    base=BASE,
    cases={
        "two bases, linear": {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        "five of six, bases by default, one kv head": {
            "num_hidden_layers": 7,
            "num_key_value_heads": 1,
            "sliding_window_pattern": None,
            "rope_theta": None,
            "rope_local_base_freq": None,
            "rope_scaling": None,
        },
        "new spelling, untied": NEW
        | {
            "tie_word_embeddings": False,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 30000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
        "yarn beyond 16, window of two": NEW
        | {
            "sliding_window": 2,
            "rope_parameters": {"full_attention": YARN, "sliding_attention": {"rope_type": "default"}},
        },
        "capped logits, no window": {
            "final_logit_softcapping": 1.5,
            "layer_types": ["full_attention"] * 4,
            "num_key_value_heads": 4,
        },
    },
    refused=[
        {"hidden_activation": "gelu"},
        {"hidden_act": "silu"},
        {"attention_bias": True},
        {"use_bidirectional_attention": True},
        {"sliding_window": 0},
        {"sliding_window_pattern": 0},
        {"layer_types": ["full_attention"] * 3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1.5}}},
        {"rope_scaling": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
        {"vision_config": {}},
        {"text_config": {"num_hidden_layers": 2}},
    ],
)
TestGemma3 = testing.suite(FAMILY)


def test_a_cap_on_scores_is_honoured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers reads attn_logit_softcapping of a Gemma 3 and doesn't use it; here it is given to its attention."""
    from transformers.models.gemma3 import modeling_gemma3

    config = FAMILY.config("two bases, linear") | {"attn_logit_softcapping": 0.5}
    case = testing.Case(family=FAMILY, folder=tmp_path, reference=testing.tiny_reference(config, tmp_path))
    with pytest.raises(AssertionError, match="prefill"):
        check_parity(case)
    capped = partial(modeling_gemma3.eager_attention_forward, softcap=0.5)
    monkeypatch.setattr(modeling_gemma3, "eager_attention_forward", capped)
    check_parity(case)
    check_laws(case)


VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


def _seeing(folder: Path, text: dict[str, Any], **more: Any) -> Any:
    """A tiny model of transformers that sees images, saved in `folder`."""
    config = {"model_type": "gemma3", "text_config": text, "vision_config": VISION, "mm_tokens_per_image": 1}
    config |= {"boi_token_index": 90, "eoi_token_index": 91, "image_token_index": 98, **more}
    return testing.tiny_reference(config, folder)


@pytest.mark.parametrize("tied", [True, False])
def test_the_text_tower_of_a_model_that_sees_images(tied: bool, tmp_path: Path) -> None:
    text = FAMILY.config("two bases, linear") | {"tie_word_embeddings": tied}
    reference = _seeing(tmp_path, text, tie_word_embeddings=tied)
    case = testing.Case(family=FAMILY, folder=tmp_path, reference=reference)
    assert case.model.config == Config.from_hf(text)
    check_parity(case)
    check_laws(case)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:  # as published folders have them
        assert {name.split(".")[0] for name in file.keys()} == {  # noqa: SIM118
            "language_model",
            "vision_tower",
            "multi_modal_projector",
        }


def test_names_as_transformers_keeps_them_in_memory(tmp_path: Path) -> None:
    reference = _seeing(tmp_path, FAMILY.config("two bases, linear"))
    case = testing.Case(family=FAMILY, folder=tmp_path, reference=reference)
    again = tmp_path / "again"
    again.mkdir()
    (again / "config.json").write_text((tmp_path / "config.json").read_text())
    tensors = {name: tensor.clone() for name, tensor in reference.state_dict().items()}  # the tied head among them
    assert {"model.language_model.norm.weight", "lm_head.weight"} < set(tensors)
    save_file(tensors, again / "model.safetensors")
    assert torch.equal(llm_blocks.load(again)(case.ids(1, 9)), case.model(case.ids(1, 9)))


def test_the_text_tower_is_saved_as_a_text_model(tmp_path: Path) -> None:
    reference = _seeing(tmp_path / "seeing", FAMILY.config("two bases, linear"))
    case = testing.Case(family=FAMILY, folder=tmp_path / "seeing", reference=reference)
    testing.check_saved(case.model, tmp_path / "text", case.ids(1, 24))
    saved = json.loads((tmp_path / "text" / "config.json").read_text())
    assert (saved["model_type"], saved["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])


def test_what_transformers_writes_of_a_model_that_sees_images_is_read(tmp_path: Path) -> None:
    reference = _seeing(tmp_path, FAMILY.config("new spelling, untied"), tie_word_embeddings=False)
    wanted = Config.from_hf(FAMILY.config("new spelling, untied"))
    assert Config.from_hf(reference.config.to_dict()) == wanted
    reference.config.save_pretrained(tmp_path)
    assert Config.from_hf(llm_blocks.read_config(tmp_path)) == wanted
