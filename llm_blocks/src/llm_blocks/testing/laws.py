"""The laws of a model. Shapes: B batch, T time, C width, V vocabulary."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.testing import assert_close

from llm_blocks.compiled import CompiledDecoder
from llm_blocks.first_layers import first_layers
from llm_blocks.parameters import shared_names

Make: TypeAlias = Callable[[str], Any]
"""From a part spec to the model of that part; the same weights each time."""

TOLERANCE = 1e-5
PADDING = 16  # positions after the longest row: more than the windows of most cases, so that none of a row is in sight


@torch.inference_mode()
def check_chunks(make: Make, ids: Tensor, sizes: Sequence[int]) -> None:
    """One by one = in chunks of these sizes = whole, for ids (B, T) with T = sum(sizes)."""
    model = make("f")
    whole = model(ids)  # (B, T, V)
    for cut in (list(sizes), [1] * ids.size(1)):
        cache = model.new_cache(ids.size(0), ids.size(1))
        chunks = [model(chunk, cache) for chunk in ids.split(cut, dim=1)]
        close(torch.cat(chunks, dim=1), whole, f"in chunks of {cut}")
        assert cache.lengths == [ids.size(1)] * ids.size(0), f"the cache counts {cache.lengths}"


@torch.inference_mode()
def check_slices(make: Make, ids: Tensor, cuts: Sequence[int]) -> None:
    """The parts between layers `cuts` compose to the whole bit for bit: on ids (B, T) at once, and with a cache."""
    model = make("f")
    edges = [0, *cuts, model.config.num_layers]
    specs = [f"{a}-{b}" for a, b in pairwise(edges)]
    specs[0] = f"b {specs[0]}"
    specs[-1] = f"{specs[-1]} e"
    parts = [make(spec) for spec in specs]
    assert torch.equal(_chain(parts, ids, None), model(ids)), f"parts {specs} differ from the whole"
    batch, time = ids.shape
    cache, caches = model.new_cache(batch, time), [part.new_cache(batch, time) for part in parts]
    for chunk in ids.split([time - 2, 1, 1], dim=1):
        assert torch.equal(_chain(parts, chunk, caches), model(chunk, cache)), f"cached parts {specs} differ"


@torch.inference_mode()
def check_first_layers(make: Make, ids: Tensor, count: int) -> None:
    """The first `count` layers and the end, with a cache of their own, give what the parts give, and copy nothing."""
    model, beginning = make("f"), make(f"b 0-{count}")
    short, cache, theirs = first_layers(model, count), None, None
    owned = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in short.parameters()} <= owned, "the first layers have weights of their own"
    for chunk in (ids, *ids.split([ids.size(1) - 2, 1, 1], dim=1)):
        assert torch.equal(short(chunk, cache), model.end(beginning(chunk, theirs))), "the first layers differ"
        cache = cache or short.new_cache(*ids.shape)
        theirs = theirs or beginning.new_cache(*ids.shape)
    assert cache is not None
    assert list(cache.k) == list(range(count)), f"the cache has the layers {list(cache.k)}"


@torch.inference_mode()
def check_rows(make: Make, rows: Sequence[Sequence[int]], *, decode: int = 3) -> None:
    """A row of a batch = the row alone: prefill of rows of unequal lengths, then `decode` greedy ids of each."""
    model = make("f")
    counts = [len(row) for row in rows]
    cache = model.new_cache(len(rows), max(counts) + decode)
    logits = model(_padded(rows, more=PADDING), cache, counts=counts)
    together = [logits[b, :count] for b, count in enumerate(counts)]
    last = torch.stack([row[-1] for row in together])  # (B, V)
    for _ in range(decode):
        last = model(last.argmax(-1, keepdim=True), cache)[:, -1]
        together = [torch.cat((row, last[b : b + 1])) for b, row in enumerate(together)]
    for b, row in enumerate(rows):
        close(together[b], _alone(model, row, decode), f"row {b} of {counts} ids")
    assert cache.lengths == [count + decode for count in counts], f"the cache counts {cache.lengths}"


@torch.inference_mode()
def check_rollback(make: Make, ids: Tensor, wrong: Tensor, keep: Sequence[int]) -> None:
    """Rolled back = never written: row b keeps keep[b] of its `wrong` continuation (B, N) of ids (B, T)."""
    model = make("f")
    batch, time = ids.shape
    used, fresh = (model.new_cache(batch, time + 2 * wrong.size(1)) for _ in range(2))
    model(ids, used)
    model(wrong, used)
    for row, count in enumerate(keep):
        used.lengths[row] = time + count
    model(ids, fresh)
    model(wrong, fresh, counts=list(keep))
    assert used.lengths == fresh.lengths
    # other ids than those rolled back, one by one: at first what was rolled back still lies beyond the row's end
    for chunk in ids[:, : wrong.size(1)].split(1, dim=1):
        close(model(chunk, used), model(chunk, fresh), "after rolling back")


@torch.inference_mode()
def check_last_only(make: Make, rows: Sequence[Sequence[int]]) -> None:
    """`last_only` = the last real position of each row of the full logits."""
    model = make("f")
    counts = [len(row) for row in rows]
    ids = _padded(rows)
    whole, last = model(ids, counts=counts), model(ids, counts=counts, last_only=True)
    assert last.shape == (len(rows), 1, whole.size(2)), f"last_only gives {tuple(last.shape)}"
    for b, count in enumerate(counts):
        close(last[b, 0], whole[b, count - 1], f"last_only of row {b}")


@torch.inference_mode()
def check_static(make: Make, rows: Sequence[Sequence[int]], more: Tensor) -> None:
    """The step that is compiled = the plain one: ids `more` (B, 9) after prompts of unequal lengths, some rows waiting.

    What `torch.compile` would compile runs as it is written. A row is rolled back on the way.
    """
    model = make("f")
    decoder, counts = CompiledDecoder(model, compiler=lambda function: function), [len(row) for row in rows]
    length = max(counts) + more.size(1)
    caches = decoder.new_cache(len(rows), length), model.new_cache(len(rows), length)
    for cache in caches:
        cache.aims[:] = [length] * len(rows)
        model(_padded(rows), cache, counts=counts)
    for number, ids in enumerate(more.split([1, 3, 1, 2, 2], dim=1)):
        real = [ids.size(1) - (number + row) % 3 if number else 1 for row in range(len(rows))]
        real = [max(0, count) for count in real]
        found, wanted = (each(ids, cache, counts=real) for each, cache in zip((decoder, model), caches, strict=True))
        for row, count in enumerate(real):
            close(found[row, :count], wanted[row, :count], f"row {row} of the static step {number}")
        assert caches[0].lengths == caches[1].lengths, f"the cache counts {caches[0].lengths}"
        for cache in caches:
            cache.lengths[0] -= number % 2
    assert decoder.graphs, "no step was static"


@torch.inference_mode()
def check_meta_build(make: Make, part: str, x: Tensor) -> None:
    """A part built on the meta device has parameters alone, and computes the same once it is assigned them."""
    model = make(part)
    with torch.device("meta"):
        empty = type(model)(model.config, part)
    assert not list(empty.buffers()), "a model keeps no buffers"
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(x), model(x))
    assert shared_names(type(model)(model.config, part)) == shared_names(model), "shared parameters were parted"


@torch.inference_mode()
def greedy(model: Any, ids: Sequence[int], count: int) -> list[int]:
    """The `count` ids that the model finds likeliest after `ids`, one by one with a cache."""
    cache = model.new_cache(1, len(ids) + count)
    x, found = torch.tensor([list(ids)]), []
    for _ in range(count):
        x = model(x, cache, last_only=True)[:, -1].argmax(-1, keepdim=True)  # (1, 1)
        found.append(int(x))
    return found


def _chain(parts: Sequence[Any], x: Tensor, caches: Sequence[Any] | None) -> Tensor:
    for part, cache in zip(parts, caches or [None] * len(parts), strict=True):
        x = part(x, cache)
    return x


def _alone(model: Any, row: Sequence[int], decode: int) -> Tensor:
    """Logits (T + decode, V) of one row and its greedy continuation, without any cache."""
    ids = torch.tensor([list(row)])
    for _ in range(decode):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    return model(ids)[0]


def _padded(rows: Sequence[Sequence[int]], more: int = 0) -> Tensor:
    width = max(len(row) for row in rows) + more
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])  # (B, T)


def close(found: Tensor, wanted: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """AssertionError, which begins with `what`, unless the two are equal to the tolerance."""
    assert_close(found, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{what}: {text}")
