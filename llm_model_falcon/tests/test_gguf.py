"""What is said of a Falcon for llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from llm_blocks import gguf_form
from llm_model_falcon.falcon import PRESETS
from llm_model_falcon.gguf import by_kind


@pytest.mark.parametrize("name", PRESETS)
def test_every_released_size_can_be_written_but_those_with_linear_biases(name: str) -> None:
    config = PRESETS[name]
    if config.rope is None:
        with pytest.raises(ValueError, match=r"no linear biases \(ALiBi\) for a Falcon"):
            gguf_form(config)
        return
    form = gguf_form(config)
    assert form.values["attention.head_count_kv"] == config.num_kv_heads
    assert form.values["rope.dimension_count"] == config.dim // config.num_heads


@pytest.mark.parametrize("changes", [{"bias": True}, {"layout": "sequential"}])
def test_other_wirings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="side by side, and no biases"):
        gguf_form(replace(PRESETS["falcon-7b"], **changes))


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 1), (6, 3), (4, 4)])
def test_projections_come_queries_first(heads: int, kv_heads: int) -> None:
    """The file has the queries of a kv head, then its key and its value."""
    shared = heads // kv_heads
    q = torch.randn(kv_heads, shared, 2, 5)
    k, v = torch.randn(kv_heads, 1, 2, 5), torch.randn(kv_heads, 1, 2, 5)
    stored = torch.cat((q, k, v), dim=1).flatten(0, 2)
    wanted = torch.cat([part.flatten(0, 2) for part in (q, k, v)])
    assert torch.equal(by_kind(kv_heads, 2)(stored), wanted)
