"""The config.json of a copy: the source's own where it still says what the copy is, else the architecture's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llm_blocks.loading import main_dtype
from llm_cli.checkpoints import Checkpoint
from llm_cli.source import find_tokenizer, special_ids
from llm_tokenizer import Tokenizer, TokenizerError

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What a source may say beside its architecture, and what training or a tokenizer would miss. Nothing that names code.
CARRIED = (
    *IDS,
    "sep_token_id",
    "decoder_start_token_id",
    "tokenizer_class",
    "initializer_range",
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "use_cache",
)


def copied_config(source: Checkpoint, dtype: torch.dtype | None, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The source's own config.json, with what the copy has otherwise.

    Where it is of a model of which the copy is a part, such as one that also sees images, it would promise tensors that
    aren't there, and a reader would make them up: the copy says what it is.
    """
    raw = dict(source.raw)
    if raw.get("model_type") != source.config.model_type:
        return hf_config(source, dtype, tokenizer)
    if dtype is not None or source.kind not in ("hf", "sepweight"):
        raw["torch_dtype" if "torch_dtype" in raw else "dtype"] = dtype_name(dtype or main_dtype(source.weights))
    return raw if tokenizer is None else raw | special_ids(tokenizer)


def hf_config(
    source: Checkpoint, dtype: torch.dtype | None = None, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The config.json as transformers spells it today, with the source's token ids or those of `tokenizer`."""
    text = source.raw.get("text_config")  # a model of several kinds has its decoder's there
    stated = {**(text if isinstance(text, Mapping) else {}), **source.raw}
    said = {key: stated[key] for key in CARRIED if stated.get(key) is not None}
    if tokenizer is None and source.kind not in ("hf", "sepweight"):
        tokenizer = _own_tokenizer(source.path)
    told = {} if tokenizer is None else special_ids(tokenizer)
    name = dtype_name(dtype or main_dtype(source.weights))
    return {**said, **told, **source.config.to_hf(), "dtype": name}


def _own_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer beside foreign weights, which alone knows the ids there; None where there is none to be read."""
    try:
        return None if path.is_file() else find_tokenizer(path)
    except TokenizerError:
        return None


def dtype_name(dtype: torch.dtype) -> str:
    """As config.json spells it: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
