"""Recorded steps of a model: when they are, when they aren't, and what they must leave alone."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_blocks
import llm_quant
from llm_blocks import Recorded, testing

needs_kernels = pytest.mark.skipif(llm_quant.level() is None, reason="there are no kernels here")
IDS = torch.arange(40)[None] % 11


@pytest.fixture
def model(toy: ModuleType) -> Any:
    return llm_quant.quantize(llm_blocks.new_model(toy.Config(), dtype=torch.bfloat16).eval(), "int8")


def decode(step: Callable[..., Tensor], cache: Any, count: int) -> list[Tensor]:
    start = cache.lengths[0]
    return [step(IDS[:, start + i : start + i + 1], cache) for i in range(count)]


@needs_kernels
def test_recorded_steps_are_the_models_own(model: Any) -> None:
    testing.check_recorded(model, vocab_size=11)


@needs_kernels
@torch.inference_mode()
def test_python_runs_no_layer_once_a_step_is_recorded(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step, cache = Recorded(model), model.new_cache(1, 40)
    model(IDS[:, :5], cache)
    decode(step, cache, 2)
    monkeypatch.setattr(type(model), "leave", None)
    decode(step, cache, 3)
    assert cache.lengths == [10]


@needs_kernels
@torch.inference_mode()
def test_later_steps_leave_the_angles_of_earlier_positions_alone(model: Any) -> None:
    """A recording took a view of the cache's own table for its input, and wrote later angles into it."""
    step, cache, plain = Recorded(model), model.new_cache(1, 40), model.new_cache(1, 40)
    for each in (cache, plain):
        model(IDS[:, :5], each)
    decode(step, cache, 6)
    cache.lengths[0] = 5
    again, wanted = (model(IDS[:, 5:12], each) for each in (cache, plain))
    assert torch.equal(again, wanted)


@needs_kernels
@torch.inference_mode()
def test_another_cache_is_another_recording(model: Any) -> None:
    step, caches = Recorded(model), [model.new_cache(1, 40) for _ in range(3)]
    for cache in caches:
        model(IDS[:, :5], cache)
    found = [decode(step, cache, 5) for cache in caches[:2]]
    wanted = decode(model, caches[2], 5)
    for each in found:
        assert all(torch.equal(a, b) for a, b in zip(each, wanted, strict=True))


@torch.inference_mode()
def test_a_full_cache_is_refused_and_nothing_is_written(model: Any) -> None:
    step, cache = Recorded(model), model.new_cache(1, 9)
    model(IDS[:, :5], cache)
    decode(step, cache, 4)
    before = {layer: k.clone() for layer, k in cache.k.items()}
    with pytest.raises(ValueError, match="the cache holds 0 to 9"):
        step(IDS[:, :1], cache)
    assert cache.lengths == [9]
    assert all(torch.equal(cache.k[layer], k) for layer, k in before.items())


@needs_kernels
def test_hooks_and_gradients_keep_a_model_in_python(model: Any) -> None:
    cache = model.new_cache(1, 40)
    step = Recorded(model)
    with torch.inference_mode():
        model(IDS[:, :5], cache)
    decode(step, cache, 3)  # gradients are on
    assert step.problem is None
    seen: list[int] = []
    handle = model.register_forward_hook(lambda *_: seen.append(1))
    hooked = Recorded(model)
    assert hooked.problem == "the model has hooks"
    with torch.inference_mode():
        decode(hooked, cache, 4)
    assert len(seen) == 4
    handle.remove()


def test_what_is_no_decoder_is_called_as_it_is() -> None:
    step = Recorded(torch.nn.Identity())
    assert step.problem == "the model is no Decoder"
