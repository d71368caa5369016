"""The laws that every architecture obeys, with splits that hypothesis chooses."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_blocks
from llm_blocks import Rope, testing
from llm_model_llama import Config, Model

LAYERS = 4


def _config(**change: Any) -> Config:
    shape = {"vocab_size": 50, "dim": 32, "hidden_dim": 48, "num_layers": LAYERS, "num_heads": 4, "num_kv_heads": 2}
    return Config(**({"head_dim": 8, "max_positions": 16} | shape | change))  # pyright: ignore[reportArgumentType]


CONFIGS = {
    "gqa": _config(),
    "tied": _config(tie_embeddings=True),
    "biases": _config(attention_bias=True, mlp_bias=True, head_dim=12, num_kv_heads=1),
    "llama3": _config(rope=Rope(kind="llama3", factor=4.0, original_max_positions=8)),
    "yarn": _config(rope=Rope(kind="yarn", factor=4.0, original_max_positions=8)),
}


@pytest.fixture(params=CONFIGS, scope="module")
def make(request: pytest.FixtureRequest) -> Any:
    """Parts of one model, built once each."""

    return lru_cache(lambda part: llm_blocks.new_model(CONFIGS[request.param], part, std=0.2).eval())


def _ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(sum(shape)))


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), batch=st.integers(1, 2))
def test_one_by_one_is_in_chunks_is_whole(make: Any, sizes: list[int], batch: int) -> None:
    testing.check_chunks(make, _ids(batch, sum(sizes)), sizes)


@settings(deadline=None, max_examples=10)
@given(cuts=st.lists(st.integers(1, LAYERS - 1), unique=True, max_size=3).map(sorted))
def test_slices_compose_bit_for_bit(make: Any, cuts: list[int]) -> None:
    testing.check_slices(make, _ids(2, 7), cuts)


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_a_row_of_a_batch_is_the_row_alone(make: Any, lengths: list[int]) -> None:
    testing.check_rows(make, [_ids(n).tolist() for n in lengths])


@settings(deadline=None, max_examples=15)
@given(keep=st.lists(st.integers(0, 3), min_size=2, max_size=2))
def test_rolled_back_is_never_written(make: Any, keep: list[int]) -> None:
    testing.check_rollback(make, _ids(2, 5), _ids(2, 3), keep)


def test_last_only_is_the_last_of_all(make: Any) -> None:
    testing.check_last_only(make, [[1, 2, 3], [4], [5, 6]])


@pytest.mark.parametrize("part", ["f", "b 0-2", "e"])
def test_a_meta_build_loads(make: Any, part: str) -> None:
    x = _ids(1, 5) if part != "e" else torch.randn(1, 5, 32)
    testing.check_meta_build(make, part, x)


def test_dynamic_rows_and_slices_too() -> None:
    """The dynamic kind changes its angles as a row grows past the trained length, so chunks may differ there."""
    config = _config(rope=Rope(kind="dynamic", factor=2.0, original_max_positions=6))

    def part(spec: str) -> Any:
        return llm_blocks.new_model(config, spec, std=0.2).eval()

    testing.check_rows(part, [[1, 2, 3, 4, 5, 6, 7, 8, 9], [3, 4]], decode=0)
    testing.check_slices(part, _ids(1, 9), [2])
    testing.check_chunks(part, _ids(1, 6), [2, 4])


def test_a_wrong_input_is_refused_before_the_cache_changes() -> None:
    model = llm_blocks.new_model(_config(), "b 0-1")
    cache = model.new_cache(1, 4)
    with pytest.raises(ValueError, match=r"takes ids \(B, T\)"):
        model(torch.zeros(1, 2, 32), cache)
    with pytest.raises(ValueError, match="from 0 to 5 positions and the cache holds 0 to 4"), torch.inference_mode():
        model(_ids(1, 5), cache)
    assert cache.lengths == [0]
    assert cache.k[0].eq(0).all()


def test_a_part_has_the_cache_of_its_layers_alone() -> None:
    model = Model(_config(), "2-4 e").to(torch.bfloat16)
    cache = model.new_cache(3, 7)
    assert list(cache.k) == [2, 3]
    assert cache.k[2].shape == (3, 2, 7, 8)
    assert cache.k[2].dtype == torch.bfloat16
    assert model.new_cache(1, 2, dtype=torch.float32).k[3].dtype == torch.float32


def test_every_weight_gets_a_gradient() -> None:
    model = llm_blocks.new_model(CONFIGS["biases"], std=0.2)
    torch.nn.functional.cross_entropy(model(_ids(2, 6)).flatten(0, 1), _ids(12)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [
        name for name in without if "attention.k.bias" not in name
    ] == []  # softmax takes no notice of a shared shift
