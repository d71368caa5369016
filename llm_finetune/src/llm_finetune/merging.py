"""Adapters added to the weights that they adapt, in fp32, so that what is left is an ordinary model.

Shapes: N outputs, K inputs.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_blocks import Checkpoint, find, open_checkpoint
from llm_blocks.checking import EMBEDDING, HEAD
from llm_blocks.names import from_hf_name, to_hf_name
from llm_blocks.parameters import pieces
from llm_blocks.replacing import put
from llm_blocks.saving import write_json, write_weights
from llm_finetune.adapter_file import AdapterFile, Factors, read_adapter
from llm_finetune.companions import companions, copy_companions
from llm_finetune.linears import is_linear, sizes_of
from llm_finetune.lora import adapters, lora_layers
from llm_finetune.peft_format import joined, skeleton
from llm_quant import LinearLike, matrix_of
from llm_sepweight import WeightsError
from llm_sepweight.atomic import atomic_folder
from llm_sepweight.stored import Pending, target_dtype


def merged_weight(weight: Tensor, factors: Factors) -> Tensor:
    """W (N, K) with an adapter of the whole layer, in fp32: W + scale B A, with DoRA's magnitudes as its rows'."""
    summed = weight.float() + factors.settings.scale * (factors.b.float() @ factors.a.float())
    if factors.magnitude is None:
        return summed
    return summed * (factors.magnitude.float() / summed.norm(dim=1))[:, None]


@torch.no_grad()
def unload(module: nn.Module, name: str = "default") -> nn.Module:
    """Add the adapter `name` to the weights of `module`, in place, and take all adapters off; gives `module`.

    A tied head that is adapted gets a weight of its own. ValueError for an unknown name and for a quantized layer,
    whose weights have no room for it, before anything changes.
    """
    if name not in adapters(module):
        raise ValueError(f"there is no adapter {name!r}; there are {', '.join(adapters(module)) or 'none'}")
    layers = lora_layers(module)
    for path, layer in layers.items():
        if name in layer.slots and not isinstance(layer.base, nn.Linear | LinearLike):
            raise ValueError(
                f"{path} is quantized, and an adapter isn't added to rounded weights; merge it into the unquantized "
                "checkpoint (merge_lora), or keep it beside the quantized one"
            )
    for path, layer in layers.items():
        if name in layer.slots:
            _merge_in_place(layer.base, joined(layer, name))
        put(module, path, layer.base)
    return module


def _merge_in_place(base: Any, factors: Factors) -> None:
    factors = _on(factors, base.weight.device)
    merged = merged_weight(matrix_of(base), factors)
    as_stored = merged.T if isinstance(base, LinearLike) else merged
    # a parameter of its own, for the head's may be the embedding's too
    base.weight = nn.Parameter(as_stored.to(base.weight.dtype).contiguous(), requires_grad=False)


def _on(factors: Factors, device: torch.device) -> Factors:
    magnitude = None if factors.magnitude is None else factors.magnitude.to(device)
    return replace(factors, a=factors.a.to(device), b=factors.b.to(device), magnitude=magnitude)


def merge_lora(adapter: str | Path, base: str | Path, out: str | Path, *, dtype: torch.dtype | None = None) -> Path:
    """Write the checkpoint `base` with an adapter in PEFT's form as the new Hugging Face folder `out`; gives that path.

    Each tensor is read, merged in fp32 and rounded once, to the file's dtype or to `dtype`; one is in memory at a time.
    The tokenizer's files and settings go along. A tied head that is adapted is stored by itself, and the config then
    says that it isn't tied. Raises ValueError for an adapter of another model and for a base that is stored quantized,
    WeightsError for files that are missing or damaged and where `out` is taken.
    """
    file, out = read_adapter(adapter), Path(out)
    with open_checkpoint(base) as checkpoint:
        if checkpoint.quantization is not None:
            raise ValueError(
                f"'{base}' is quantized, and an adapter isn't added to rounded weights; give the unquantized "
                "checkpoint, or keep the adapter beside the quantized one"
            )
        deltas = _by_name(file, checkpoint)
        untied = HEAD in deltas and checkpoint.config.tie_embeddings
        with atomic_folder(out) as folder:
            copy_companions(companions(checkpoint.path), folder)
            write_weights(folder, _tensors(checkpoint, deltas, dtype))
            write_json(folder / "config.json", _config(checkpoint, dtype, untied=untied))
    return out


def _by_name(file: AdapterFile, checkpoint: Checkpoint) -> dict[str, Factors]:
    """The factors by our names of the weights that they change."""
    table = find(checkpoint.config.model_type).NAMES
    model = skeleton(checkpoint.config)
    found: dict[str, Factors] = {}
    for path, factors in file.factors.items():
        try:
            name = from_hf_name(table, f"{path}.weight")
            layer: nn.Module = model.get_submodule(name.removesuffix(".weight"))
        except (ValueError, AttributeError):
            layer, name = model, ""
        if not is_linear(layer) or sizes_of(layer) != (factors.b.size(0), factors.a.size(1)):
            raise ValueError(f"{file.folder}: its factors for {path[:200]} fit no linear layer of {checkpoint.path}")
        found[name] = factors
    return found


def _tensors(checkpoint: Checkpoint, deltas: Mapping[str, Factors], dtype: torch.dtype | None) -> dict[str, Pending]:
    """Each tensor under Hugging Face's name, to be read when its turn comes; experts go one by one."""
    table, model = find(checkpoint.config.model_type).NAMES, skeleton(checkpoint.config)
    parts, found = pieces(model), {}
    for name, stored in _stored_names(checkpoint, deltas).items():
        for own, view in parts.get(name, {name: None}).items():
            wanted = None if own.endswith(model.exact) else dtype
            transposed = own in deltas and isinstance(model.get_submodule(own.removesuffix(".weight")), LinearLike)
            change = deltas.get(own)
            found[to_hf_name(table, own)] = _pending(checkpoint, stored, view, change, wanted, transposed)
    return found


def _stored_names(checkpoint: Checkpoint, deltas: Mapping[str, Factors]) -> dict[str, str]:
    """The name of each tensor to write -> the name that stores it; a tied head only where an adapter changes it."""
    weights = checkpoint.weights
    names = {name: name for name in weights.names}
    if checkpoint.config.tie_embeddings:
        stored = EMBEDDING if EMBEDDING in names else HEAD
        names.pop(HEAD, None)
        names = {EMBEDDING: stored, **{name: each for name, each in names.items() if name != EMBEDDING}}
        if HEAD in deltas:
            names[HEAD] = stored
    missing = [name for name in deltas if name not in names]
    if missing:
        raise WeightsError(f"{checkpoint.path}: lacks {missing[0]}, which the adapter changes")
    return names


def _pending(
    checkpoint: Checkpoint,
    stored: str,
    view: Tensor | None,
    change: Factors | None,
    dtype: torch.dtype | None,
    transposed: bool,
) -> Pending:
    info = checkpoint.weights.info(stored)
    shape = info.shape if view is None else tuple(view.shape)

    def read() -> Tensor:
        tensor = checkpoint.weights.read(stored)
        if view is not None:
            whole = tensor.contiguous()
            return whole.as_strided(view.size(), view.stride(), whole.storage_offset() + view.storage_offset())
        if change is None:
            return tensor
        return merged_weight(tensor.T, change).T if transposed else merged_weight(tensor, change)

    return Pending(dtype=target_dtype(info.dtype, dtype), shape=shape, read=read)


def _config(checkpoint: Checkpoint, dtype: torch.dtype | None, *, untied: bool) -> dict[str, Any]:
    """The base's own config.json, changed where the new folder is another."""
    raw = dict(checkpoint.raw)
    if untied:
        raw["tie_word_embeddings"] = False
    if dtype is not None:
        raw |= dict.fromkeys([key for key in ("dtype", "torch_dtype") if key in raw] or ["dtype"], str(dtype)[6:])
    return raw
