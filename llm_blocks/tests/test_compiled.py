"""Compiled steps: one graph for many, their caches, and when they are left to the model itself. The compiler here is
torch's tracing alone, without code made of it; the real one is tried in llm_cli."""

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_blocks
from llm_blocks import CompiledDecoder, CompileError, Rope, compiled

TRACED = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs for 8 slots, 16, 32, …"""
    monkeypatch.setattr(compiled, "SMALLEST", 8)


@pytest.fixture(autouse=True)
def fresh() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _logits(model: Any, ids: Tensor, first: int, **options: Any) -> Tensor:
    """The logits (B, T, V) of ids one by one, after the first few at once."""
    cache = model.new_cache(ids.size(0), ids.size(1))
    steps = [model(ids[:, :first], cache), *(model(each, cache, **options) for each in ids[:, first:].split(1, 1))]
    return torch.cat(steps, dim=1)


@torch.inference_mode()
def test_nothing_is_compiled_again_as_a_text_grows(model: Any) -> None:
    ids = torch.randint(0, 23, (2, 120))
    decoder = CompiledDecoder(model, compiler=TRACED)
    cache = decoder.new_cache(2, 120)
    found = [decoder(ids[:, :20], cache), decoder(ids[:, 20:21], cache, last_only=True)]
    with torch.compiler.set_stance("fail_on_recompile"):
        found += [decoder(each, cache, last_only=True) for each in ids[:, 21:].split(1, dim=1)]
    assert decoder.graphs == 1
    torch.testing.assert_close(torch.cat(found, dim=1), model(ids), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_neither_are_graphs_for_the_next_text(model: Any) -> None:
    """Its cache is another object, and has the storage of the last: a graph that was recorded goes on with it."""
    decoder, ids = CompiledDecoder(model, compiler=TRACED), torch.randint(0, 23, (1, 40))
    wanted = model(ids)
    cache = decoder.new_cache(1, 40)
    decoder(ids[:, :1], cache)
    place = cache.k[0].data_ptr()
    cache.k[0].fill_(float("nan"))
    del cache
    cache = decoder.new_cache(1, 33)
    assert (cache.k[0].data_ptr(), cache.lengths, cache.aims) == (place, [0], [None])
    assert decoder.new_cache(1, 33).k[0].data_ptr() != place, "a storage belongs to one cache at a time"
    with torch.compiler.set_stance("fail_on_recompile"):
        found = torch.cat([decoder(each, cache) for each in ids.split(1, dim=1)], dim=1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.usefixtures("small")
def test_a_graph_looks_at_no_more_than_twice_the_text(model: Any) -> None:
    ids = torch.randint(0, 23, (2, 60))
    decoder = CompiledDecoder(model, compiler=TRACED)
    assert decoder.new_cache(2, 60).capacity == 64
    torch.testing.assert_close(_logits(decoder, ids, 3), model(ids), rtol=1e-4, atol=1e-5)
    assert decoder.graphs == 5  # 8, 16, 32, 64; and 8 for the three at once


@torch.inference_mode()
def test_several_positions_share_a_few_graphs(model: Any) -> None:
    """As speculation asks for them: 3 and 4 are one graph, and so are rows with fewer real ones."""
    decoder, ids = CompiledDecoder(model, compiler=TRACED), torch.randint(0, 23, (2, 40))
    cache, plain = decoder.new_cache(2, 60), model.new_cache(2, 60)
    for time, counts in ((20, None), (4, None), (3, [1, 3]), (3, [0, 2]), (4, [3, 0])):
        found, wanted = decoder(ids[:, :time], cache, counts=counts), model(ids[:, :time], plain, counts=counts)
        assert found.shape == wanted.shape
        for row, count in enumerate(counts or [time] * 2):
            torch.testing.assert_close(found[row, :count], wanted[row, :count], rtol=1e-4, atol=1e-5)
    assert (cache.lengths, decoder.graphs) == (plain.lengths, 1)


@torch.inference_mode()
def test_what_does_not_fit_is_refused_before_anything_is_written(model: Any) -> None:
    decoder = CompiledDecoder(model, compiler=TRACED)
    cache = decoder.new_cache(1, 256)
    cache.lengths[0] = 256
    with pytest.raises(ValueError, match="goes from 256 to 257"):
        decoder(torch.tensor([[1]]), cache)
    assert not cache.k[0].any()
    assert cache.lengths == [256]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_angles_that_change_with_the_text_are_left_to_the_model(kind: str, model: Any) -> None:
    """Dynamic ones beyond the trained length, and LongRoPE where the rows' texts are of both kinds."""
    factors = {"short_factor": (1.0, 1.0), "long_factor": (2.0, 3.0)} if kind == "longrope" else {}
    rope = Rope(kind=kind, factor=4.0, original_max_positions=16, **factors)
    changed = type(model)(dataclasses.replace(model.config, rope=rope)).eval()
    changed.load_state_dict(model.state_dict())
    changed.cache_shape = dataclasses.replace(changed.cache_shape, long_from=rope.long_from)
    decoder, ids = CompiledDecoder(changed, compiler=TRACED), torch.randint(0, 23, (2, 24))
    caches = decoder.new_cache(2, 24), changed.new_cache(2, 24)
    for cache in caches:
        cache.aims[:] = [24, 10] if kind == "longrope" else [8, 8]
    counts = [1, 1]
    for number, each in enumerate(ids.split(1, dim=1)):
        if kind == "longrope":
            counts[1] = int(number < 10)
        found, wanted = (one(each, cache, counts=counts) for one, cache in zip((decoder, changed), caches, strict=True))
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    assert decoder.graphs == (0 if kind == "longrope" else 1)
    graphs = decoder.graphs  # a text read up to beyond the trained length has one angle from the start, if not dynamic
    found, wanted = (one(ids[:1, :1], _aimed(one, 24)) for one in (decoder, changed))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert decoder.graphs - graphs == int(kind == "longrope")


def _aimed(model: Any, aim: int) -> Any:
    cache = model.new_cache(1, aim)
    cache.aims[:] = [aim]
    return cache


def test_no_compiler_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    from torch._inductor import config

    with config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(CompileError, match=r"needs a C\+\+ compiler"):
        CompiledDecoder(model)
    with pytest.raises(CompileError, match="not for mps"):
        llm_blocks.require_compiler(torch.device("mps"))


@torch.inference_mode()
def test_a_step_that_torch_cannot_compile_says_so(model: Any) -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x

    model.end.norm = Odd()
    decoder = CompiledDecoder(model, compiler=TRACED)
    with pytest.raises(CompileError, match="can't compile a step of this model"):
        decoder(torch.tensor([[1]]), decoder.new_cache(1, 4))


@torch.inference_mode()
def test_models_in_turn_keep_their_graphs(toy: Any) -> None:
    """As a draft and its model are called; two of one shape are not taken for one another."""
    models = [llm_blocks.new_model(toy.Config(), std=0.3, seed=seed).eval() for seed in (1, 2)]
    decoders = [CompiledDecoder(model, compiler=TRACED) for model in models]
    caches, ids = [each.new_cache(1, 30) for each in decoders], torch.randint(0, 23, (1, 30))
    found = [[each(ids[:, :1], cache)] for each, cache in zip(decoders, caches, strict=True)]
    with torch.compiler.set_stance("fail_on_recompile"):
        for step in ids[:, 1:].split(1, dim=1):
            for logits, each, cache in zip(found, decoders, caches, strict=True):
                logits.append(each(step, cache))
    for model, logits in zip(models, found, strict=True):
        torch.testing.assert_close(torch.cat(logits, dim=1), model(ids), rtol=1e-4, atol=1e-5)
