"""Folders whose layers are stored as whole numbers, made of folders that `llm_blocks.save` has written."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from llm_quant import Int4, Int8, round_int4, round_int8
from llm_quant.formats import CompressedTensors


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any], **config: Any) -> Path:
    """The folder with other tensors, which `change` makes of those by name in place, and more in its config.json."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | config))
    return folder


def store_rounded(folder: Path, form: CompressedTensors, layers: Iterable[str]) -> Path:
    """The folder with these layers, by the file's names, rounded to the nearest and stored in that form."""

    def change(tensors: dict[str, Tensor]) -> None:
        for layer in layers:
            stored = form.encode(nearest(tensors.pop(f"{layer}.weight"), form))
            tensors |= {f"{layer}.{suffix}": tensor for suffix, tensor in stored.items()}

    return rewrite(folder, change, quantization_config=form.to_hf([]))


def nearest(weight: Tensor, form: CompressedTensors) -> Int8 | Int4:
    """The whole numbers of a form that are the nearest to a weight (N, K)."""
    return round_int8(weight) if form.bits == 8 else round_int4(weight, form.group_size or 0)


def words(numbers: Tensor, order: Iterable[int] = range(8)) -> Tensor:
    """Numbers of 0 to 15 (R, C), eight of a row in an int32, as GPTQ and AWQ (with an `order` of its own) have them."""
    whole = sum((numbers[:, column::8].long() << (4 * place) for place, column in enumerate(order)), start=0)
    assert isinstance(whole, Tensor)
    return whole.where(whole < 2**31, whole - 2**32).int()
