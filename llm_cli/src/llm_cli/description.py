"""What a checkpoint holds and the memory it needs, from headers and configuration alone."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm_cli.checkpoints import Checkpoint, open_checkpoint
from llm_cli.source import TOKENIZER_FILES
from llm_tokenizer import Tokenizer, TokenizerError

TOKENS = 1024
INT4_GROUP = 32  # weights that share one 16-bit scale


def describe(path: Path) -> dict[str, Any]:
    """Architecture, sizes, tokenizer and memory of the checkpoint at a path. Raises ValueError."""
    found = open_checkpoint(path)
    model = found.skeleton
    config = found.config
    files = found.weight_files()
    return {
        "path": str(path),
        "layout": found.weights.layout,
        "architecture": config.model_type,
        "layers": config.num_layers,
        "width": config.dim,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtypes": _dtypes(found),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "context": config.max_positions,
        "vocabulary": config.vocab_size,
        "tied_embeddings": config.tie_embeddings,
        "tokenizer": _describe_tokenizer(path),
        "memory": _memory(model),
    }


def _dtypes(found: Checkpoint) -> list[str]:
    """The dtypes of the tensors, the one with the most bytes first."""
    sizes: Counter[str] = Counter()
    for info in map(found.weights.info, found.weights.names):
        sizes[str(info.dtype).removeprefix("torch.")] += info.nbytes
    return [name for name, _ in sizes.most_common()]


def _describe_tokenizer(path: Path) -> dict[str, Any] | None:
    kind = next((name for name in TOKENIZER_FILES if (path / name).exists()), None)
    if path.is_file() or kind is None:
        return None
    try:
        tokenizer = Tokenizer.load(path)
    except TokenizerError as error:  # the weights can be described all the same
        return {"kind": kind, "problem": str(error)}
    return {
        "kind": kind,
        "tokens": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "end_ids": list(tokenizer.end_ids),
        "chat_template": tokenizer.chat_template is not None,
    }


def _memory(model: Any) -> dict[str, dict[str, int]]:
    """Bytes of the weights, and of the cache for 1,024 tokens, by dtype; quantized weights keep a bf16 cache.

    int8 has one 16-bit scale per output row, int4 one per 32 weights; both leave embeddings and norms in bf16.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    linear = [module.weight for name, module in model.named_modules() if _is_quantized(name, module, model)]
    quantized = sum(weight.numel() for weight in linear)
    rest = 2 * (total - quantized)
    int8 = sum(weight.numel() + 2 * weight.shape[0] for weight in linear) + rest
    int4 = sum(math.ceil(weight.numel() / 2) + 2 * math.ceil(weight.numel() / INT4_GROUP) for weight in linear) + rest
    cache = {dtype: _cache_bytes(model, dtype) for dtype in (torch.float32, torch.bfloat16)}
    weights = {"fp32": 4 * total, "bf16": 2 * total, "int8": int8, "int4": int4}
    return {
        name: {"weights": size, "cache_per_1024_tokens": cache[torch.float32 if name == "fp32" else torch.bfloat16]}
        for name, size in weights.items()
    }


def _is_quantized(name: str, module: nn.Module, model: Any) -> bool:
    """Whether the module is a linear layer; a head that shares the embedding's weight stays as that is."""
    return isinstance(module, nn.Linear) and not (name.startswith("end.") and model.config.tie_embeddings)


def _cache_bytes(model: Any, dtype: torch.dtype) -> int:
    cache = model.new_cache(1, TOKENS, dtype=dtype, device="meta")
    return sum(tensor.nbytes for stored in (cache.k, cache.v) for tensor in stored.values())
