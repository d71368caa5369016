"""Tiny models, and rows made by hand."""

from typing import Any

import pytest
import torch

import llm_blocks
from llm_finetune import Sample
from llm_model_llama import llama

VOCABULARY = 61


@pytest.fixture
def make_model() -> Any:
    """A tiny Llama, always with the same weights, frozen and in evaluation mode as `llm_blocks.load` gives it."""

    def make(*, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
        shape: dict[str, Any] = {"dim": 32, "hidden_dim": 48, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
        shape |= {"vocab_size": VOCABULARY, "head_dim": 8, "max_positions": 64}
        config = llama.Config(**(shape | changes))
        return llm_blocks.new_model(config, std=0.1, seed=4, dtype=dtype).requires_grad_(False).eval()

    return make


@pytest.fixture
def make_samples() -> Any:
    """Samples of unequal lengths and uneven masks; a fifth of them has no trained token."""

    def make(count: int, seed: int = 0) -> list[Sample]:
        generator = torch.Generator().manual_seed(seed)
        samples = []
        for number in range(count):
            length = int(torch.randint(3, 20, (), generator=generator))
            ids = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
            start = length if number % 5 == 4 else int(torch.randint(1, length, (), generator=generator))
            weights = [0.0] * start + [1.0 + number % 2] * (length - start)
            samples.append(Sample(ids=ids, weights=weights))
        return samples

    return make
