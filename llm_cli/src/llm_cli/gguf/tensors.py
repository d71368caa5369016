"""The tensors of a GGUF file: which there are, how each is made of the checkpoint's, and its numbers when asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import llm_blocks
from llm_blocks.gguf import Change, GgufForm
from llm_blocks.names import to_hf_name
from llm_cli.checkpoints import EMBEDDING, HEAD, Checkpoint
from llm_cli.conversion import hf_tensors
from llm_sepweight.stored import Pending

if TYPE_CHECKING:
    import gguf
    import numpy as np

_EXPERT = re.compile(r"^(?P<before>.*\.\d+\..*)\.(?P<number>\d+)(?P<after>\..*)$")
# llama.cpp computes with these in fp32 whatever the file's type is, as with all vectors
_EXACT = re.compile(r".*_norm\.weight|.*ffn_gate_inp(_shexp)?\.weight|position_embd\.weight")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of the file, made of one of the checkpoint's, or of several along a new first dimension if `stacked`."""

    name: str
    type: gguf.GGMLQuantizationType
    parts: tuple[Pending, ...]
    stacked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the order of torch."""
        own = self.parts[0].shape
        return (len(self.parts), *own) if self.stacked else own

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of its bytes or, unquantized, of its numbers."""
        from gguf.quants import quant_shape_to_byte_shape

        return quant_shape_to_byte_shape(self.shape, self.type) if self._packed else self.shape

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in the file."""
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.type]
        return torch.Size(self.shape).numel() // block * size

    def read(self) -> np.ndarray[Any, Any]:
        """Its numbers as they go into the file. ValueError for one that its type can't hold."""
        import numpy as np

        if not self.stacked:
            return self._stored(self.parts[0])
        whole = np.empty(self.stored_shape, dtype=self.stored_dtype)
        for place, part in enumerate(self.parts):
            whole[place] = self._stored(part)
        return whole

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """How numpy holds it: as bytes where numpy has no such numbers."""
        import numpy as np

        return np.dtype("uint8" if self._packed else "float16" if self.type.name == "F16" else "float32")

    @property
    def _packed(self) -> bool:
        return self.type.name not in ("F32", "F16")

    def _stored(self, part: Pending) -> np.ndarray[Any, Any]:
        from gguf.quants import quantize

        numbers = part.read().float()
        largest = float(numbers.abs().max())
        if not math.isfinite(largest):
            raise ValueError(f"{self.name} has numbers that are infinite or none at all, so the checkpoint is damaged")
        if largest > _LARGEST.get(self.type.name, math.inf):
            raise ValueError(f"{self.name} has a number of {largest:.3g}, too large for its type; take --dtype bf16")
        return quantize(numbers.contiguous().numpy(), self.type)


_LARGEST = {"F16": 65_504.0, "Q8_0": 65_504.0 * 127}  # each block of the latter has an fp16 number that it multiplies


def entries(source: Checkpoint, form: GgufForm, wanted: gguf.GGMLQuantizationType) -> list[Entry]:
    """Every tensor of the file, none of them read yet. ValueError for one that llama.cpp has no name for."""
    import gguf

    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == form.architecture)
    names = gguf.get_tensor_name_map(architecture, source.config.num_layers)
    found: dict[str, dict[int | None, Pending]] = {}  # by name, the tensor or those of each expert
    for theirs, tensor in _changed(source, form):
        merged, number = _merged(theirs)
        for part, spelling in form.renames.items():
            merged = merged.replace(part, spelling)
        name = names.get_name(merged, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ValueError(f"llama.cpp has no place for {theirs} in its architecture {form.architecture}")
        found.setdefault(name, {})[number] = tensor
    found |= {f"{name}.weight": {None: _constant(numbers)} for name, numbers in form.factors.items()}
    order = {name: place for place, name in enumerate(names.mapping)}  # the same whatever layout they come from
    ordered = sorted(found, key=lambda name: (order.get(name.rpartition(".")[0], -1), name))
    return [_entry(name, found[name], wanted) for name in ordered]


def _entry(name: str, parts: dict[int | None, Pending], wanted: gguf.GGMLQuantizationType) -> Entry:
    """Vectors and what decides between experts stay exact; a row that doesn't part into blocks stays half precise."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    stacked = None not in parts
    ordered = tuple(parts[number] for number in (range(len(parts)) if stacked else (None,)))
    entry = Entry(name=name, type=wanted, parts=ordered, stacked=stacked)
    if len(entry.shape) < 2 or name.endswith(".bias") or _EXACT.fullmatch(name):
        return replace(entry, type=GGMLQuantizationType.F32)
    if entry.shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        return replace(entry, type=GGMLQuantizationType.F16)
    return entry


def _changed(source: Checkpoint, form: GgufForm) -> Iterator[tuple[str, Pending]]:
    """Each tensor as llama.cpp has it, still under Hugging Face's name."""
    for theirs, tensor in _with_head(source, form).items():
        change = next((each for pattern, each in form.changes.items() if fnmatchcase(theirs, pattern)), None)
        if change is None:
            yield theirs, tensor
        elif callable(change):
            yield theirs, _apply(change, tensor)
        else:
            module, kind = theirs.rsplit(".", 2)[0], theirs.rpartition(".")[2]
            for name, each in change.items():
                yield f"{module}.{name}.{kind}", _apply(each, tensor)


def _with_head(source: Checkpoint, form: GgufForm) -> dict[str, Pending]:
    """The tensors under Hugging Face's names: a tied head not at all, or a second time if llama.cpp wants it."""
    table = llm_blocks.find(source.config.model_type).NAMES
    embedding, head = to_hf_name(table, EMBEDDING), to_hf_name(table, HEAD)
    tensors = hf_tensors(source)
    if source.config.tie_embeddings:
        tensors.pop(head, None)
        if form.separate_head:
            tensors[head] = tensors[embedding]
    return tensors


def _apply(change: Change, tensor: Pending) -> Pending:
    """The tensor after the change, whose result has the shape that it has without numbers."""
    after = change(torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
    return Pending(dtype=after.dtype, shape=tuple(after.shape), read=_then(tensor.read, change))


def _then(read: Callable[[], Tensor], change: Change) -> Callable[[], Tensor]:
    return lambda: change(read())


def _merged(theirs: str) -> tuple[str, int | None]:
    """The name without the number of an expert, and that number if it has one."""
    found = _EXPERT.match(theirs)
    return (found["before"] + found["after"], int(found["number"])) if found else (theirs, None)


def _constant(numbers: tuple[float, ...]) -> Pending:
    make = partial(torch.tensor, numbers, dtype=torch.float32)
    return Pending(dtype=torch.float32, shape=(len(numbers),), read=make)
