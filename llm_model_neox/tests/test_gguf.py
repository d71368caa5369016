"""What is said of each family for llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import gguf_form
from llm_model_neox.gguf import by_kind


def presets(model_type: str) -> dict[str, Any]:
    return llm_blocks.find(model_type).PRESETS


@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2"])
def test_every_released_size_can_be_written(model_type: str) -> None:
    for config in presets(model_type).values():
        form = gguf_form(config)
        assert form.values["attention.head_count_kv"] == config.num_heads
        assert form.values["context_length"] == config.max_positions


def test_how_a_layer_is_wired_is_said() -> None:
    form = gguf_form(presets("gpt_neox")["RedPajama-INCITE-7B-Base"])
    assert form.values["use_parallel_residual"] is False
    assert form.values["rope.dimension_count"] == 128
    assert gguf_form(presets("gpt_neox")["pythia-1b"]).values["rope.dimension_count"] == 64


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("gpt_neox", {"attention_bias": False}, "wants biases in the attention"),
        ("gpt2", {"scale_attention": False}, "by the root of the head size in every layer"),
        ("gpt2", {"scale_by_layer": True}, "by the root of the head size in every layer"),
        ("gptj", {}, "doesn't run any GPT-J"),
    ],
)
def test_what_llama_cpp_can_not_express_is_refused(model_type: str, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gguf_form(replace(next(iter(presets(model_type).values())), **changes))


def test_projections_come_queries_first() -> None:
    """The file has the query, the key and the value of a head, then those of the next: weights and biases."""
    q, k, v = (torch.randn(4, 6, 5) for _ in range(3))
    stored = torch.stack((q, k, v), dim=1)  # (H, 3, D, C)
    wanted = torch.cat([part.flatten(0, 1) for part in (q, k, v)])
    assert torch.equal(by_kind(4)(stored.flatten(0, 2)), wanted)
    assert torch.equal(by_kind(4)(stored[..., 0].flatten()), wanted[:, 0])


def test_linear_layers_are_the_other_way_round() -> None:
    change = gguf_form(presets("gpt2")["gpt2"]).changes["*.c_attn.weight"]
    assert callable(change)
    assert torch.equal(change(torch.arange(6.0).view(2, 3)), torch.arange(6.0).view(2, 3).T)
