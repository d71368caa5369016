"""Prompts of one list that begin alike: what they share is read once, in one row, and copied to the others."""

from itertools import pairwise
from typing import Any

import torch

from llm_blocks.cache_rows import put_back, row_of
from llm_cli.pieces import angles, common_prefix, cut_below, read_pieces

WORTH = 128  # positions that needn't be read again: fewer don't pay for forwards of one row


@torch.inference_mode()
def read_shared(model: Any, kv: Any, prompts: list[list[int]]) -> list[int]:
    """Read into the empty `kv` what prompts share with another; how many positions of each were copied, not read.

    The rest of each prompt remains to be read. Nothing is read where that wouldn't pay.
    """
    order, common = _in_order(kv, model.config, prompts)
    copied, previous = [0] * len(prompts), None
    if sum(common) < WORTH:
        return copied
    for row, before, behind in zip(order, common, [*common[1:], 0], strict=True):
        one = row_of(kv, row)
        if before and previous is not None and previous.holds(0, before):
            copied[row] = before
            previous.truncate(before)
            one.copy_from(previous)
        read_pieces(model, one, prompts[row], max(before, behind))
        put_back(kv, row, one)
        previous = one
    return copied


def _in_order(kv: Any, config: Any, prompts: list[list[int]]) -> tuple[list[int], list[int]]:
    """The rows in an order in which neighbours share the most, and up to which cut each shares with the one before."""
    turns = [angles(kv, config, len(ids)) for ids in prompts]
    order = sorted(range(len(prompts)), key=lambda row: (turns[row], prompts[row]))
    common = [0]
    for before, row in pairwise(order):
        shared = common_prefix(prompts[before], prompts[row]) if turns[before] == turns[row] else 0
        # the last id of each is left to read, because its logits are wanted
        common.append(cut_below(min(shared, len(prompts[before]) - 1, len(prompts[row]) - 1)))
    return order, common
