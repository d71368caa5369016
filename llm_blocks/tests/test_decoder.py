"""What every decoder does alike, beyond the laws: sizes that it refuses, the dtype of its caches, its beginnings."""

from types import ModuleType
from typing import Any

import pytest
import torch

import llm_blocks
from llm_blocks import ScaledEmbedding


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ({"vocab_size": 2**28 + 1}, "vocab_size is 268435457, which is not supported: the limit is 2\\^28"),
        ({"dim": 2**27, "num_kv_heads": 9}, "heads is 301989888, which is not supported"),
    ],
)
def test_sizes_that_no_model_has_are_refused(toy: ModuleType, sizes: dict[str, Any], rule: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=rule):
        toy.Model(toy.Config(**sizes), "b")


def test_a_cache_has_the_dtype_of_the_norms(toy: ModuleType) -> None:
    """The other weights may be quantized, and then their dtype isn't that of the activations."""
    model = llm_blocks.new_model(toy.Config())
    model.begin.bfloat16()
    assert model.new_cache(1, 4).k[0].dtype == torch.float32
    assert model.new_cache(1, 4, dtype=torch.float16).v[2].dtype == torch.float16


def test_an_embedding_is_scaled_by_a_number_of_its_own_dtype() -> None:
    torch.manual_seed(0)
    embedding = ScaledEmbedding(3, 400, 55.42562584220407).bfloat16()
    rounded = torch.tensor(55.5)  # the nearest of bfloat16, with which the models were trained
    found = embedding(torch.tensor([[2, 0]]), None)
    assert found.equal((embedding.embed.weight[[2, 0]].float() * rounded).bfloat16()[None])
