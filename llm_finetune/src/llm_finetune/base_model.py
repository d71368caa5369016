"""The model that finetuning begins with: where it is computed, in which numbers, and rounded where asked for."""

from pathlib import Path
from typing import Any

import torch

import llm_blocks
import llm_quant
from llm_finetune.job import Quantization
from llm_finetune.peft_format import skeleton
from llm_finetune.precision import stored_dtype
from llm_finetune.settings import Precision

_GROUP_SIZES = (llm_quant.GROUP_SIZE, 32, 16, 8)


def load_base(folder: str | Path, *, precision: Precision | None = None, quantize: Quantization | None = None) -> Any:
    """The model of a checkpoint's folder on this machine's fastest device, frozen and in evaluation mode.

    precision None is the checkpoint's own; half types are computed on a CPU as bf16, or as fp32 where it isn't fast at
    bf16. With `quantize` each linear layer is rounded as soon as it is read. ValueError for what is quantized already.
    """
    device = _device()
    with llm_blocks.open_checkpoint(folder) as checkpoint:
        stored, quantized = checkpoint.dtype, checkpoint.quantization
    if quantized is not None and quantize is not None:
        raise ValueError(f"the weights of '{folder}' are quantized already ({quantized}); leave quantize out")
    dtype = stored_dtype(precision) or _dtype(stored, device)
    replace = None if quantize is None else lambda model: _plan(model, quantize)
    return llm_blocks.load(folder, device=device, dtype=dtype, replace=replace)


def outline(folder: str | Path, *, precision: Precision | None = None) -> Any:
    """The model of `load_base` without its numbers: of its sizes and dtype, on no device."""
    with llm_blocks.open_checkpoint(folder) as checkpoint:
        stored = checkpoint.dtype
    return skeleton(llm_blocks.load_config(folder)).to(stored_dtype(precision) or _dtype(stored, _device()))


def usual_precision(folder: str | Path, *, full: bool) -> Precision | None:
    """The precision of a run that names none: the dtype of `load_base`; where everything trains, with fp32 weights.

    Small updates would be lost in weights of 16 bits, and their sums in an adapter's are not: these are fp32 anyway.
    """
    with llm_blocks.open_checkpoint(folder) as checkpoint:
        dtype = _dtype(checkpoint.dtype, _device())
    mixed: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}
    return mixed.get(dtype) if full else None


def stored_precision(folder: str | Path) -> Precision:
    """The precision that a checkpoint's weights are stored in."""
    with llm_blocks.open_checkpoint(folder) as checkpoint:
        stored = checkpoint.dtype
    names: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16-true", torch.float16: "16-true"}
    return names.get(stored, "32-true")


def _plan(model: Any, scheme: Quantization) -> dict[str, llm_quant.Maker]:
    """The largest groups that divide the inputs of every layer, as int4 needs them."""
    widths = {weight.shape[-1] for layer in llm_quant.targets(model).values() for weight in llm_quant.weights_of(layer)}
    fitting = (size for size in _GROUP_SIZES if all(width % size == 0 for width in widths))
    return llm_quant.plan(model, scheme, group_size=next(fitting, _GROUP_SIZES[-1]))


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    if stored == torch.float32 or device.type != "cpu":
        return stored if stored in (torch.float32, torch.float16) else torch.bfloat16
    found = getattr(torch.cpu, "get_capabilities", dict)()  # absent from the oldest torch that we accept
    fast = any(found.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32
