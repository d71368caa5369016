"""What a checkpoint holds and the memory it needs, from headers and configuration alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import llm_blocks
from llm_blocks.mlp import Experts
from llm_cli.adapters import base_path
from llm_cli.checkpoints import MOST_PARTS, Checkpoint, open_checkpoint
from llm_cli.matrices import unquantized
from llm_cli.models import ModelNotFoundError
from llm_cli.source import TOKENIZER_FILES
from llm_finetune import base_of
from llm_sepweight import read_json
from llm_sepweight.formats.safetensors_file import SafetensorsFile
from llm_tokenizer import Tokenizer, TokenizerError

TOKENS = 1024
INT4_GROUP = 32  # weights that share one 16-bit scale


def describe(path: Path) -> dict[str, Any]:
    """Architecture, sizes, tokenizer and memory of the checkpoint at a path. Raises ValueError."""
    found = open_checkpoint(path, partial=True, quantized=True)
    model = found.skeleton
    config = found.config
    files = found.weight_files()
    return {
        "path": str(path),
        "layout": found.weights.layout,
        "architecture": config.model_type,
        "part": None if found.part == "f" else f"{found.part} of {config.num_layers} layers",
        "layers": config.num_layers,
        "width": config.dim,
        **_heads(model),
        "parameters": _size(model),
        **_experts(model),
        "quantization": None if found.quantization is None else str(found.quantization),
        "dtypes": _dtypes(found),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "left_out": _left_out(found),
        "context": config.max_positions,
        **_windows(model),
        "vocabulary": config.vocab_size,
        "tied_embeddings": config.tie_embeddings,
        "tokenizer": _describe_tokenizer(path),
        "memory": _memory(model) if found.quantization is None else _quantized_memory(found),
    }


def describe_adapter(folder: Path) -> dict[str, Any]:
    """Kind, base and sizes of the adapter in a folder; its base is looked for, not read. Raises ValueError."""
    raw = read_json(folder / "adapter_config.json")
    shown = {"r": raw.get("r"), "alpha": raw.get("lora_alpha")}
    kind = [str(raw.get("peft_type"))[:40], *(f"{name} {str(n)[:20]}" for name, n in shown.items() if n is not None)]
    files = sorted(folder.glob("*.safetensors"))
    infos = [info for file in files for info in SafetensorsFile(file).infos.values()]
    return {
        "path": str(folder),
        "adapter": ", ".join(kind),
        "base": base_of(folder),
        **_base(folder),
        "tensors": len(infos),
        "parameters": sum(math.prod(info.shape) for info in infos),
        "dtypes": sorted({str(info.dtype).removeprefix("torch.") for info in infos}),
        "bytes": sum(file.stat().st_size for file in files),
        "tokenizer": _describe_tokenizer(folder),
    }


def _base(folder: Path) -> dict[str, str | None]:
    """Where the base is, or why it can't be told."""
    try:
        return {"base_path": str(base_path(folder, download=False)), "problem": None}
    except ModelNotFoundError as error:
        return {"base_path": None, "problem": str(error)}


def presets() -> dict[str, list[str]]:
    """The names that init="random" takes, by the `model_type` of their architecture."""
    modules = {
        module.Config.model_type: module for module in map(llm_blocks.find, llm_blocks.installed_architectures())
    }
    return {model_type: sorted(module.PRESETS) for model_type, module in modules.items() if module.PRESETS}


def _heads(model: Any) -> dict[str, int | None]:
    """Heads that ask, and heads that are kept in the cache, as far as the architecture tells them apart."""
    config = model.config
    return {"heads": getattr(config, "num_heads", None), "kv_heads": getattr(config, "num_kv_heads", None)}


def _experts(model: Any) -> dict[str, int | None]:
    """Of a mixture of experts: how many there are, how many a token goes through, and the parameters that it uses."""
    number, used = (getattr(model.config, name, None) or None for name in ("num_experts", "experts_per_token"))
    active = None
    if number and used:
        routed = sum(_size(module) for module in model.modules() if isinstance(module, Experts))
        active = _size(model) - routed + routed * used // number
    return {"experts": number, "experts_per_token": used, "active_parameters": active}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _windows(model: Any) -> dict[str, int | None]:
    """The longest sliding window of the layers, and how many layers have one."""
    windows = [window for window in getattr(model, "windows", {}).values() if window is not None]
    return {"sliding_window": max(windows, default=None), "windowed_layers": len(windows) or None}


def _left_out(found: Checkpoint) -> dict[str, Any] | None:
    """The tensors of the files that are no part of the model, such as those of an image tower: how many, and whose."""
    parts = found.parts_left_out
    return {"tensors": len(found.left_out), "parts": len(parts), "prefixes": parts[:MOST_PARTS]} if parts else None


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

    int8 has one 16-bit scale per output, int4 one per 32 weights; both leave embeddings, norms and biases in bf16.
    """
    total = _size(model)
    matrices = list(_matrices(model))
    rest = 2 * (total - sum(weight.numel() for weight, _ in matrices))
    int8 = sum(weight.numel() + 2 * outputs for weight, outputs in matrices) + rest
    groups = [(math.ceil(weight.numel() / 2), math.ceil(weight.numel() / INT4_GROUP)) for weight, _ in matrices]
    int4 = sum(size + 2 * scales for size, scales in groups) + rest
    cache = {dtype: _cache_bytes(model, dtype) for dtype in (torch.float32, torch.bfloat16)}
    weights = {"fp32": 4 * total, "bf16": 2 * total, "int8": int8, "int4": int4}
    return {
        name: {"weights": size, "cache_per_1024_tokens": cache[torch.float32 if name == "fp32" else torch.bfloat16]}
        for name, size in weights.items()
    }


def _quantized_memory(found: Checkpoint) -> dict[str, dict[str, int]]:
    """The same for a checkpoint that is quantized: its tensors as they are, and a bf16 cache."""
    cache = _cache_bytes(found.skeleton, torch.bfloat16)
    return {found.quantization.kind: {"weights": found.weights.nbytes, "cache_per_1024_tokens": cache}}


def _matrices(model: nn.Module) -> Iterator[tuple[Tensor, int]]:
    """What a quantizer takes: each matrix or stack of matrices that multiplies, and how many outputs it has.

    An embedding is looked up, and a head that shares its weight stays as that is. So do routers. Norms are too small
    to matter.
    """
    kept = set(unquantized(model))
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for path, module in model.named_modules():
        bias = getattr(module, "bias", None)
        for name, weight in module.named_parameters(recurse=False):
            if weight.dim() < 2 or id(weight) in tables or path in kept or "norm" in f"{path}.{name}":
                continue
            # A bias has a number for each output, also where the weight is stored transposed (GPT-2).
            yield weight, len(bias) if isinstance(bias, Tensor) else weight.numel() // weight.shape[-1]


def _cache_bytes(model: Any, dtype: torch.dtype) -> int:
    cache = model.new_cache(1, TOKENS, dtype=dtype, device="meta")
    return sum(tensor.nbytes for stored in (cache.k, cache.v) for tensor in stored.values())
