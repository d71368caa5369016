"""Checks that every architecture's tests share: the laws of a model, and parity with transformers.

A check raises AssertionError; none of them needs pytest. `make` is the architecture's factory: make("b 0-2") is the
model of that part, always with the same weights.
"""

from llm_blocks.testing.family import NULL, Case, Family, check_stacked
from llm_blocks.testing.laws import (
    check_chunks,
    check_first_layers,
    check_last_only,
    check_meta_build,
    check_rollback,
    check_rows,
    check_slices,
    check_static,
    close,
    greedy,
)
from llm_blocks.testing.packed import check_packed
from llm_blocks.testing.parity import check_greedy, check_logits, check_saved, tiny_reference
from llm_blocks.testing.parts import check_parts
from llm_blocks.testing.quantized import check_quantized
from llm_blocks.testing.recording import check_recorded
from llm_blocks.testing.stored import nearest, rewrite, store_rounded, words
from llm_blocks.testing.suite import suite

__all__ = [
    "NULL",
    "Case",
    "Family",
    "check_chunks",
    "check_first_layers",
    "check_greedy",
    "check_last_only",
    "check_logits",
    "check_meta_build",
    "check_packed",
    "check_parts",
    "check_quantized",
    "check_recorded",
    "check_rollback",
    "check_rows",
    "check_saved",
    "check_slices",
    "check_stacked",
    "check_static",
    "close",
    "greedy",
    "nearest",
    "rewrite",
    "store_rounded",
    "suite",
    "tiny_reference",
    "words",
]
