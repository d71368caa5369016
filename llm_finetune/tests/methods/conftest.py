"""Tiny models of transformers with random weights, and ours of the same folders."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks.testing.parity import tiny_reference

SIZE: dict[str, Any] = {"vocab_size": 67, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZE |= {"intermediate_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": False}
SIZE |= {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZE | {"model_type": "llama", "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
    "tied": SIZE | {"model_type": "llama", "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
    "gpt_neox": SIZE | {"model_type": "gpt_neox"},
    "phi3": SIZE | {"model_type": "phi3", "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "pad_token_id": 0},
    "falcon": {
        "model_type": "falcon",
        "vocab_size": 67,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "bias": False,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 67,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    },
    "alibi": {
        "model_type": "falcon",
        "vocab_size": 67,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "alibi": True,
        "bias": True,
    },
    "gemma2": SIZE
    | {
        "model_type": "gemma2",
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 6,
        "query_pre_attn_scalar": 8,
    }
    | {"attn_logit_softcapping": 5.0, "tie_word_embeddings": True},
    "mistral": SIZE | {"model_type": "mistral", "rms_norm_eps": 1e-5, "num_key_value_heads": 2, "sliding_window": 6},
    "qwen3": SIZE | {"model_type": "qwen3", "rms_norm_eps": 1e-6, "num_key_value_heads": 2, "head_dim": 8},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by its kind, written once."""

    @functools.cache
    def make(kind: str) -> Path:
        where = tmp_path_factory.mktemp(kind)
        tiny_reference(CONFIGS[kind], where)
        return where

    return make


@pytest.fixture
def load(folder: Callable[[str], Path]) -> Callable[..., Any]:
    """A fresh copy of our model of a kind, in fp32."""
    return lambda kind, **options: llm_blocks.load(folder(kind), dtype=torch.float32, **options)


@pytest.fixture
def reference(folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """A fresh copy of transformers' model of a kind."""

    def make(kind: str) -> Any:
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(folder(kind), attn_implementation="eager").eval()

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of token ids."""
    return torch.randint(0, 67, (2, 13), generator=torch.Generator().manual_seed(3))
