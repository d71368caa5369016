"""int8, int4, nf4 and fp4 weights as functions over any nn.Module, with fast kernels for the CPU."""

from importlib.metadata import version

from llm_quant.bnb import BnbLinear
from llm_quant.canonical import Int4, Int8, round_int4, round_int8
from llm_quant.linear import KernelLinear, QuantizedLinear
from llm_quant.memory import Arena
from llm_quant.native import KernelsError, choose, level, reason
from llm_quant.quantize import GROUP_SIZE, SCHEMES, Scheme, accelerate, quantize

__version__ = version("llm_quant")

__all__ = [
    "GROUP_SIZE",
    "SCHEMES",
    "Arena",
    "BnbLinear",
    "Int4",
    "Int8",
    "KernelLinear",
    "KernelsError",
    "QuantizedLinear",
    "Scheme",
    "accelerate",
    "choose",
    "level",
    "quantize",
    "reason",
    "round_int4",
    "round_int8",
]
