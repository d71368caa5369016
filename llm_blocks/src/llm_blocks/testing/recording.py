"""The law of recorded steps. Shapes: B batch, T time, V vocabulary."""

from typing import Any

import torch

from llm_blocks.recorded import Recorded


@torch.inference_mode()
def check_recorded(model: Any, *, vocab_size: int, recorded: bool = True, steps: int = 24) -> None:
    """Recorded steps give the bits of the model's own: one token and several, of rows of unequal lengths, rolled back.

    `recorded` says whether the kernels have all of the model's operations; AssertionError where it isn't so.
    """
    torch.manual_seed(0)
    ids = torch.randint(vocab_size, (2, 9 + 4 * steps))
    mine, caches = Recorded(model), [model.new_cache(2, ids.size(1)) for _ in range(2)]
    for cache in caches:
        model(ids[:, :9], cache, counts=[9, 4])
    for number in range(steps):
        new = ids[:, 9 + number : 10 + number + (number % 4 == 3) * 2]
        last_only = number % 4 != 3
        found, wanted = (
            step(new, cache, last_only=last_only) for step, cache in zip((mine, model), caches, strict=True)
        )
        assert torch.equal(found, wanted), f"step {number} of {tuple(new.shape)} differs ({mine.problem})"
        assert caches[0].lengths == caches[1].lengths
        if number % 5 == 4:
            for cache in caches:
                cache.lengths[0] -= 2
    assert (mine.problem is None) == recorded, mine.problem or "it was recorded"
