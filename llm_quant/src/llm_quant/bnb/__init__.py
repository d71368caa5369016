"""The formats of bitsandbytes: nf4, fp4 (QLoRA, arXiv 2305.14314) and LLM.int8() (arXiv 2208.07339).

LLM.int8() needs the library, the extra `bnb`; nf4 and fp4 don't, and on CUDA are multiplied by it where it is there.
"""

from typing import Literal, TypeAlias

from torch import nn

from llm_quant.bnb import library
from llm_quant.bnb.eight import Bit8, Bit8Linear, round_bit8
from llm_quant.bnb.four import BLOCK, Bit4, Bit4Linear, round_bit4
from llm_quant.bnb.layer import BnbLinear
from llm_quant.bnb.nested import NESTED_BLOCK, Nested

Scheme: TypeAlias = Literal["bnb.nf4", "bnb.nf4-dq", "bnb.fp4", "bnb.fp4-dq", "bnb.int8"]
SCHEMES: tuple[Scheme, ...] = ("bnb.nf4", "bnb.nf4-dq", "bnb.fp4", "bnb.fp4-dq", "bnb.int8")

__all__ = [
    "BLOCK",
    "NESTED_BLOCK",
    "SCHEMES",
    "Bit4",
    "Bit4Linear",
    "Bit8",
    "Bit8Linear",
    "BnbLinear",
    "Nested",
    "Scheme",
    "quantized",
    "require",
    "round_bit4",
    "round_bit8",
]


def require(scheme: str) -> None:
    """Raise ValueError, which tells how to get it, where a scheme needs bitsandbytes and that is not installed."""
    if scheme == "bnb.int8":
        library.require()


def quantized(layer: nn.Linear, scheme: str) -> BnbLinear:
    """A layer with the nearest weights of one of `SCHEMES`, on the same device. ValueError without bitsandbytes."""
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    if scheme == "bnb.int8":
        return Bit8Linear(round_bit8(weight), bias)
    return Bit4Linear(round_bit4(weight, "nf4" if "nf4" in scheme else "fp4", nested=scheme.endswith("-dq")), bias)
