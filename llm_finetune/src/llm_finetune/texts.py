"""What the model that is being trained writes. Shapes: B = 1, T time, V vocabulary."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch

from llm_finetune.batches import Sample
from llm_finetune.evaluate import mode
from llm_finetune.feeding import Rows
from llm_finetune.parallel import World, world
from llm_finetune.settings import Settings
from llm_tokenizer import Tokenizer


def sample(model: Any, tokenizer: Tokenizer, rows: Rows, settings: Settings) -> tuple[str, str]:
    """The prompt of a row, and the text that the model continues it with, greedily, up to an end of turn.

    The row is one of the validation rows, or of the training rows where there are none, as `evaluate_example` says; its
    prompt is what comes before its first trained token. ValueError for a number beyond the rows.
    """
    ids = prompt_ids(_row(rows, settings))
    assert settings.eval.max_new_tokens is not None
    room = min(settings.eval.max_new_tokens, model.config.max_positions - len(ids))
    found = continue_greedily(model, ids, room, tokenizer.end_ids, world())
    return tokenizer.decode(ids, skip_special=False), tokenizer.decode(found)


def prompt_ids(row: Sample) -> list[int]:
    """The ids before the first trained token, at least one of them."""
    first = next((place for place, weight in enumerate(row.weights) if place and weight > 0), 1)
    return list(row.ids[:first])


@torch.no_grad()
def continue_greedily(
    model: Any, ids: Sequence[int], count: int, ends: Sequence[int] = (), world: World | None = None
) -> list[int]:
    """Up to `count` ids that the model finds likeliest after `ids`, one after the other; one of `ends` isn't given.

    All processes of `world` write together, and the first one chooses, so that none waits for another.
    """
    world = world or World()
    found: list[int] = []
    if count < 1:
        return found
    cache = model.new_cache(1, len(ids) + count)
    x = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with mode(model, training=False):
        while len(found) < count:
            x = model(x, cache, last_only=True)[:, -1].argmax(-1, keepdim=True)  # (1, 1)
            x = world.same(x.contiguous())
            if int(x) in ends:
                break
            found.append(int(x))
    return found


def _row(rows: Rows, settings: Settings) -> Sample:
    known, which = rows.val or rows.train, settings.eval.evaluate_example
    if isinstance(which, int) and which >= len(known):
        raise ValueError(f"eval.evaluate_example is {which}, and there are {len(known)} rows; the first is 0")
    if which == "random":
        which = zlib.crc32(f"{settings.seed} example".encode()) % len(known)
    row = known[0 if which == "first" else which]
    return row[0] if isinstance(row, tuple) else row
