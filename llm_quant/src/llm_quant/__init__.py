"""int8, int4, nf4 and fp4 weights as functions over any nn.Module, with fast kernels for the CPU."""

from importlib.metadata import version

from llm_quant.bnb import BnbLinear
from llm_quant.calibrate import METHODS, LayerError, Method, calibrate
from llm_quant.canonical import Int4, Int8, round_int4, round_int8
from llm_quant.clipping import clip_int4
from llm_quant.gptq import gptq
from llm_quant.hessian import Hessian
from llm_quant.linear import KernelLinear, QuantizedLinear, kernel_linear
from llm_quant.memory import Arena
from llm_quant.native import KernelsError, choose, level, reason
from llm_quant.quantize import GROUP_SIZE, SCHEMES, Maker, Scheme, accelerate, plan, quantize
from llm_quant.stacks import QuantizedStack, side_by_side
from llm_quant.targets import LinearLike, Stacked, matrix_of, targets, weights_of

__version__ = version("llm_quant")

__all__ = [
    "GROUP_SIZE",
    "METHODS",
    "SCHEMES",
    "Arena",
    "BnbLinear",
    "Hessian",
    "Int4",
    "Int8",
    "KernelLinear",
    "KernelsError",
    "LayerError",
    "LinearLike",
    "Maker",
    "Method",
    "QuantizedLinear",
    "QuantizedStack",
    "Scheme",
    "Stacked",
    "accelerate",
    "calibrate",
    "choose",
    "clip_int4",
    "gptq",
    "kernel_linear",
    "level",
    "matrix_of",
    "plan",
    "quantize",
    "reason",
    "round_int4",
    "round_int8",
    "side_by_side",
    "targets",
    "weights_of",
]
