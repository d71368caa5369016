"""One row of a cache as a cache of its own, so that it can be read into alone."""

import copy

from llm_blocks.cache import KVCache


def row_of(cache: KVCache, row: int) -> KVCache:
    """Row `row` of `cache` over the same storage; `put_back` notes there what was read into it."""
    one = copy.copy(cache)
    for name, storage in cache.storages.items():
        setattr(one, name, {layer: tensor[row : row + 1] for layer, tensor in storage.items()})
    one.lengths, one.aims = [cache.lengths[row]], [cache.aims[row]]
    one._long, one._tops = [cache._long[row]], [cache._tops[row]]
    return one


def put_back(cache: KVCache, row: int, one: KVCache) -> None:
    """Note in `cache` how far its row, which `row_of` gave as `one`, has been read."""
    cache.lengths[row], cache.aims[row] = one.lengths[0], one.aims[0]
    cache._long[row], cache._tops[row] = one._long[0], one._tops[0]
