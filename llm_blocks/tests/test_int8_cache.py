"""Keys and values of int8: near those of the activations' dtype, whoever writes and reads them."""

from types import ModuleType
from typing import Any

import pytest
import torch

import llm_blocks
import llm_quant
from llm_blocks import KVCache
from llm_blocks.cache_rows import row_of

IDS = torch.randint(0, 23, (2, 60), generator=torch.Generator().manual_seed(3))


def cache(**more: Any) -> KVCache:
    sizes: dict[str, Any] = {"batch": 2, "num_kv_heads": 3, "length": 40, "head_dim": 8, "value_dim": 6}
    return KVCache([0], dtype=torch.int8, device="cpu", **(sizes | more))


def near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Within half a step of whole numbers, of which the largest of a vector has 127."""
    return bool(((found - wanted).abs() <= 0.5001 * wanted.abs().amax(-1, keepdim=True) / 127 + 1e-9).all())


@pytest.mark.parametrize("windows", [{}, {0: 5}])
def test_what_is_written_comes_back_nearly(windows: dict[int, int]) -> None:
    torch.manual_seed(0)
    kept = cache(windows=windows)
    k, v = torch.randn(2, 3, 30, 8), torch.randn(2, 3, 30, 6)
    kept.write(0, 7, k, v)
    found = kept.numbers(0, 37, torch.float32)
    assert near(found[0][:, :, 7:], k)
    assert near(found[1][:, :, 7:], v)
    kept.scatter(0, torch.tensor([0, 1]), torch.tensor([3, 9]), k[:, :, 0], v[:, :, 0])
    found = kept.numbers(0, 37, torch.float32)
    assert near(found[0][0, :, 3], k[0, :, 0])
    assert near(found[1][1, :, 9], v[1, :, 0])


def test_zeros_infinities_and_nan_leave_the_rest_alone() -> None:
    kept = cache()
    k = torch.randn(2, 3, 4, 8)
    k[0, 0, 0], k[0, 0, 1, 2], k[0, 0, 2, 3] = 0, float("inf"), float("nan")
    kept.write(0, 0, k, torch.zeros(2, 3, 4, 6))
    found = kept.numbers(0, 4, torch.float32)[0]
    assert not found[0, 0, 0].any()
    assert not found[0, 0, 1].isfinite().all()
    assert not found[0, 0, 2].isfinite().all()
    assert near(found[0, 0, 3], k[0, 0, 3])
    assert near(found[1], k[1])


def test_the_kernels_write_what_torch_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    if llm_quant.level() is None:
        pytest.skip("there are no kernels here")
    torch.manual_seed(1)
    mine, theirs = cache(), cache()
    k, v = (torch.randn(2, 1, 3, size).transpose(1, 2) for size in (8, 6))
    mine.write(0, 4, k, v)
    assert llm_quant.steps.store(k, v, theirs.kept(0), [4, 4], [5, 5])
    for a, b in zip(mine.kept(0), theirs.kept(0), strict=True):
        assert torch.equal(a, b)


def test_copies_rows_and_emptied_caches_have_the_scales() -> None:
    torch.manual_seed(2)
    kept, twice = cache(), cache(batch=4)
    kept.write(0, 0, torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 6))
    kept.lengths[:] = [9, 9]
    twice.copy_from(kept, 2)
    wanted = kept.numbers(0, 9, torch.float32)[0]
    assert torch.equal(twice.numbers(0, 9, torch.float32)[0], wanted.repeat_interleave(2, dim=0))
    assert torch.equal(row_of(kept, 1).numbers(0, 9, torch.float32)[0], wanted[1:])
    assert not any(tensor.any() for storage in kept.emptied().storages.values() for tensor in storage.values())


@pytest.mark.parametrize("kernels", [True, False])
@torch.inference_mode()
def test_logits_are_near_those_of_a_whole_cache(
    toy: ModuleType, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, chunks, single tokens and rows of unequal lengths, by the kernels and by torch."""
    if not kernels:
        monkeypatch.setattr(llm_quant.native, "level", lambda: None)
    model = llm_blocks.new_model(toy.Config()).eval()
    plain = model.new_cache(2, 60)
    model.cache_dtype = torch.int8
    rounded = model.new_cache(2, 60)
    assert rounded.k[0].dtype == torch.int8
    assert sum(t.nbytes for s in rounded.storages.values() for t in s.values()) <= 0.5 * sum(
        t.nbytes for s in plain.storages.values() for t in s.values()
    )
    for start, stop, counts in ((0, 9, [9, 4]), (9, 12, None), (12, 13, None), (13, 20, [7, 2]), (20, 21, None)):
        found, wanted = (model(IDS[:, start:stop], each, counts=counts) for each in (rounded, plain))
        last = min(counts or [stop - start])
        assert (found[:, :last] - wanted[:, :last]).abs().max() < 0.02 * wanted.abs().max()
        assert rounded.lengths == plain.lengths


@torch.inference_mode()
def test_recorded_steps_read_it(toy: ModuleType) -> None:
    if llm_quant.level() is None:
        pytest.skip("there are no kernels here")
    model = llm_quant.quantize(llm_blocks.new_model(toy.Config(), dtype=torch.bfloat16).eval(), "int8")
    model.cache_dtype = torch.int8
    llm_blocks.testing.check_recorded(model, vocab_size=23)


def test_compiled_steps_refuse_it(toy: ModuleType) -> None:
    model = llm_blocks.new_model(toy.Config())
    model.cache_dtype = torch.int8
    with pytest.raises(ValueError, match="leave out one of the two"):
        llm_blocks.CompiledDecoder(model)
