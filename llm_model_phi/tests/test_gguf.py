"""What is said of each family for llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import llm_blocks
from llm_blocks import gguf_form


def presets(model_type: str) -> dict[str, Any]:
    return llm_blocks.find(model_type).PRESETS


@pytest.mark.parametrize("model_type", ["phi", "phi3", "phimoe"])
def test_every_released_size_can_be_written(model_type: str) -> None:
    for name, config in presets(model_type).items():
        if name == "Phi-tiny-MoE":
            with pytest.raises(ValueError, match="the width 4096 here, these are 16 heads of 128"):
                gguf_form(config)
            continue
        form = gguf_form(config)
        assert form.values["rope.dimension_count"] == int(config.head_dim * config.rope.partial)
        assert form.values["block_count"] == config.num_layers


def test_longrope_and_a_window_longer_than_the_context() -> None:
    form = gguf_form(presets("phi3")["Phi-4-mini"])
    assert len(form.factors["rope_factors_long"]) == form.values["rope.dimension_count"] // 2 == 48
    assert form.values["rope.scaling.attn_factor"] == pytest.approx(1.1902380714)
    assert form.values["context_length"] == 131_072
    assert form.notes == ()


def test_a_window_shorter_than_the_context_ends_it() -> None:
    form = gguf_form(presets("phi3")["Phi-3-mini-4k"])
    assert form.values["context_length"] == 2_047
    assert "instead of 4,096" in form.notes[0]


@pytest.mark.parametrize(
    ("model_type", "changes", "why"),
    [
        ("phi", {"qk_norm": True}, "no norms of queries and keys"),
        (
            "phi3",
            {"num_heads": 16, "num_kv_heads": 16},
            "heads to make up the width 3072 here, these are 16 heads of 96",
        ),
        ("phimoe", {"attention_bias": False}, "wants biases in the attention and in the head"),
    ],
)
def test_what_llama_cpp_can_not_express_is_refused(model_type: str, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        gguf_form(replace(next(iter(presets(model_type).values())), **changes))


def changed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    change = gguf_form(presets("phimoe")["Phi-3.5-MoE"]).changes[name]
    assert callable(change)
    return change(tensor)


def test_what_a_phimoe_writes_into_its_stream_has_no_mean() -> None:
    """Then a norm that subtracts no mean gives what LayerNorm gave."""
    embedding, o, bias = torch.randn(7, 8), torch.randn(8, 6), torch.randn(8)
    x, heads = embedding[3], torch.randn(6)
    before = x + o @ heads + bias
    after = changed("*.embed_tokens.weight", embedding)[3]
    after = after + changed("*.o_proj.*", o) @ heads + changed("*.o_proj.*", bias)
    assert torch.allclose(F.rms_norm(after, (8,), eps=1e-5), F.layer_norm(before, (8,), eps=1e-5), atol=1e-5)


def test_the_shares_of_a_phimoes_experts_are_even_and_what_they_give_is_twice_as_large() -> None:
    scores = changed("*.gate.weight", torch.tensor([[7.0], [-3.0], [6.0], [1.0]])) @ torch.ones(1)
    shares, chosen = scores.softmax(-1).topk(2)
    assert chosen.tolist() == [0, 2]
    assert (shares / shares.sum()).tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    down = torch.randn(8, 5)
    wanted = 2 * (down - down.mean(0))
    assert torch.allclose(changed("*.experts.*.w2.weight", down), wanted, atol=1e-6)
