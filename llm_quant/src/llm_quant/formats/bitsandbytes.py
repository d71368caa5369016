"""The forms in which transformers and its kin store layers of bitsandbytes (QLoRA, arXiv 2305.14314; LLM.int8(),
arXiv 2208.07339).

Shapes: N rows (outputs), K columns (inputs), S = N K / 64 scales, rounded up. Of 4 bits: weight (N K / 2, 1) uint8;
absmax (S,) fp32, or with double quantization uint8, nested_absmax (S / 256,) and nested_quant_map (256,); quant_map
(16,), which is the table of nf4 or fp4; quant_state is JSON, in which the offset of the scales stands. Of 8 bits:
weight (N, K) int8 and SCB (N,), the largest number of each row.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from llm_quant import bnb
from llm_quant.bnb.four import TABLES, Code
from llm_quant.bnb.nested import NESTED_BLOCK
from llm_quant.formats.base import SCALES, Entry, Format, Layer
from llm_quant.formats.settings import Settings, shown

LARGEST_STATE = 4096  # bytes of JSON; there are some 150
THRESHOLD = 6.0
DTYPES = ("float16", "bfloat16", "float32")

_BESIDE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")

# How somebody's program computes, and which layers were left out, which their tensors tell.
INERT = frozenset(
    {
        "_load_in_4bit",
        "_load_in_8bit",
        "bnb_4bit_compute_dtype",
        "llm_int8_enable_fp32_cpu_offload",
        "llm_int8_skip_modules",
    }
)
_INERT_4 = INERT | {"llm_int8_threshold", "llm_int8_has_fp16_weight"}
_INERT_8 = INERT | {"bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"}


@dataclass(frozen=True, kw_only=True)
class Bnb4(Format):
    """Layers in nf4 or fp4; with `nested` their scales are quantized too."""

    method: ClassVar[str] = "bitsandbytes"
    packed: ClassVar[str] = "weight.absmax"

    code: Code
    nested: bool
    bits: int = 4
    group_size: int | None = bnb.BLOCK

    def __str__(self) -> str:
        return f"{self.code}{', double quantization' if self.nested else ''} ({self.method})"

    @property
    def kind(self) -> str:
        return self.code

    @property
    def suffixes(self) -> tuple[str, ...]:
        return ("weight", *(f"weight.{name}" for name in _BESIDE), *(_state_of(code) for code in TABLES))

    def entries(self, n: int, k: int) -> dict[str, Entry]:
        count, floats = -(-n * k // bnb.BLOCK), (torch.float32,)
        found = {
            "weight": Entry(shape=(-(-n * k // 2), 1), dtypes=(torch.uint8,)),
            "weight.absmax": Entry(shape=(count,), dtypes=(torch.uint8,) if self.nested else floats),
            "weight.quant_map": Entry(shape=(16,), dtypes=floats),
            _state_of(self.code): Entry(shape=(LARGEST_STATE,), dtypes=(torch.uint8,), text=True),
        }
        if self.nested:
            found["weight.nested_absmax"] = Entry(shape=(-(-count // NESTED_BLOCK),), dtypes=floats)
            found["weight.nested_quant_map"] = Entry(shape=(256,), dtypes=floats)
        return found

    def decode(self, tensors: Mapping[str, Tensor], n: int, k: int) -> Layer:
        offset = self._checked(_read(tensors[_state_of(self.code)]), n, k)
        if not torch.allclose(tensors["weight.quant_map"], torch.tensor(TABLES[self.code]), rtol=0, atol=1e-6):
            raise ValueError(f"its quant_map is not the table of {self.code}")
        nested = None
        if self.nested:
            absmax, code = tensors["weight.nested_absmax"], tensors["weight.nested_quant_map"]
            nested = bnb.Nested(code=code, absmax=absmax, offset=torch.tensor(offset))
        value, absmax = tensors["weight"].view(-1), tensors["weight.absmax"]
        return Layer(weight=bnb.Bit4(code=self.code, shape=(n, k), value=value, absmax=absmax, nested=nested))

    def _checked(self, state: Mapping[str, Any], n: int, k: int) -> float:
        """The offset of the scales, 0 without double quantization; ValueError for a state that isn't this layer's."""
        wanted: dict[str, tuple[Any, ...]] = {
            "quant_type": (self.code,),
            "blocksize": (bnb.BLOCK,),
            "shape": ([n, k],),
            "dtype": DTYPES,
        }
        if self.nested:
            wanted |= {"nested_blocksize": (NESTED_BLOCK,), "nested_dtype": ("float32",)}
        for name, allowed in wanted.items():
            if state.get(name) not in allowed:
                raise ValueError(f"its quant_state has {name} = {shown(state.get(name))}, not {allowed[0]}")
        unknown = state.keys() - wanted.keys() - ({"nested_offset"} if self.nested else set())
        if unknown:
            raise ValueError(f"its quant_state has {shown(min(unknown))}, of which nothing is known")
        offset = state.get("nested_offset") if self.nested else 0.0
        if not isinstance(offset, float) or not math.isfinite(offset):
            raise ValueError(f"its quant_state has nested_offset = {shown(offset)}, which is no finite number")
        return offset


@dataclass(frozen=True, kw_only=True)
class Bnb8(Format):
    """Layers of LLM.int8()."""

    method: ClassVar[str] = "bitsandbytes"
    packed: ClassVar[str] = "SCB"

    bits: int = 8
    group_size: int | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        return ("weight", "SCB", "weight_format")

    def entries(self, n: int, k: int) -> dict[str, Entry]:
        return {
            "weight": Entry(shape=(n, k), dtypes=(torch.int8,)),
            "SCB": Entry(shape=(n,), dtypes=SCALES),
            "weight_format": Entry(shape=(), dtypes=(torch.uint8,), optional=True),
        }

    def decode(self, tensors: Mapping[str, Tensor], n: int, k: int) -> Layer:
        bnb.require("bnb.int8")
        if "weight_format" in tensors and int(tensors["weight_format"]) != 0:
            raise ValueError("its weight_format is the order of one processor's kernels, and rows alone are read")
        return Layer(weight=bnb.Bit8(value=tensors["weight"], scale=tensors["SCB"].float()))


def parse(settings: Settings) -> Bnb4 | Bnb8:
    """What a quantization_config of the method bitsandbytes says. ValueError names the key that can't be honoured."""
    four, eight = (settings.flag(f"load_in_{bits}bit", default=False) for bits in (4, 8))
    if four == eight:
        raise settings.refused("load_in_4bit", "either it or load_in_8bit is true")
    if eight:
        settings.require("llm_int8_threshold", (THRESHOLD, int(THRESHOLD)), "activations of 6 and more are kept")
        settings.require("llm_int8_has_fp16_weight", (False,), "the weights are stored in 8 bits")
        settings.finish(inert=_INERT_8)
        return Bnb8()
    settings.require("bnb_4bit_quant_type", ("nf4", "fp4"), "the types nf4 and fp4 are read")
    settings.require("bnb_4bit_quant_storage", ("uint8",), "weights are read from uint8")
    nested = settings.flag("bnb_4bit_use_double_quant", default=False)
    settings.finish(inert=_INERT_4)
    nf4 = settings.get("bnb_4bit_quant_type") == "nf4"  # fp4 is the default
    return Bnb4(code="nf4" if nf4 else "fp4", nested=nested)


def _state_of(code: Code) -> str:
    """What the name of a layer's state ends in."""
    return f"weight.quant_state.bitsandbytes__{code}"


def _read(text: Tensor) -> Mapping[str, Any]:
    """The JSON object in a tensor of bytes."""
    try:
        found = json.loads(bytes(text.tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError("its quant_state is no JSON") from error
    if not isinstance(found, dict):
        raise ValueError("its quant_state is no JSON object")
    return found
