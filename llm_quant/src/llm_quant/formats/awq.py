"""The form in which AutoAWQ stores layers, version "gemm" (AWQ, arXiv 2306.00978).

Shapes: N rows (outputs), K columns (inputs), G groups of columns. qweight (K, N/8) int32 has eight outputs of an input
in a number, in the order 0, 2, 4, 6, 1, 3, 5, 7 from its lowest bits up; qzeros (G, N/8) likewise; scales (G, N).
weight = scale * (value - zero).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm_quant.canonical import pack_nibbles, unpack_nibbles
from llm_quant.formats.base import SCALES, Entry, Format, Layer, int4_of, to_bytes
from llm_quant.formats.settings import Settings

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # of each of eight outputs in their number

# How the weights were found, and how somebody's program runs them. Layers that were left out are told by their names.
# The last ones are GPTQ's, whose settings transformers writes along.
INERT = frozenset(
    {
        "backend",
        "do_fuse",
        "exllama_config",
        "fuse_max_seq_len",
        "modules_to_fuse",
        "modules_to_not_convert",
        "act_group_aware",
        "batch_size",
        "cache_block_outputs",
        "damp_percent",
        "max_input_length",
        "meta",
        "model_seqlen",
        "sym",
        "true_sequential",
    }
)


@dataclass(frozen=True, kw_only=True)
class Awq(Format):
    """Layers of AutoAWQ."""

    method: ClassVar[str] = "awq"
    packed: ClassVar[str] = "qweight"

    @property
    def suffixes(self) -> tuple[str, ...]:
        return ("qweight", "qzeros", "scales")

    def entries(self, n: int, k: int) -> dict[str, Entry]:
        count = self.groups(n, k)
        if n % 8:
            raise ValueError(f"{n} outputs of 4 bits are no whole numbers of 32 bits")
        return {
            "qweight": Entry(shape=(k, n // 8), dtypes=(torch.int32,)),
            "qzeros": Entry(shape=(count, n // 8), dtypes=(torch.int32,)),
            "scales": Entry(shape=(count, n), dtypes=SCALES),
        }

    def decode(self, tensors: Mapping[str, Tensor], n: int, k: int) -> Layer:
        value, zero = (_in_order(tensors[name]).t() for name in ("qweight", "qzeros"))  # (N, K) and (N, G)
        return Layer(weight=int4_of(pack_nibbles(value), tensors["scales"].t(), zero))


def parse(settings: Settings) -> Awq:
    """What a quantization_config of the method awq says. ValueError names the key that can't be honoured."""
    bits, group_size = settings.bits("bits", "w_bit", known=(4,)), settings.group_size("group_size", "q_group_size")
    for key in ("version", "format"):
        settings.require(key, ("gemm", "GEMM"), "the version gemm is read")
    settings.require("backend", ("autoawq", "auto"), "the form of AutoAWQ is read")
    settings.require("zero_point", (True,), "weights with zero points are read")
    settings.require("desc_act", (False,), "there is no order of groups in this form")
    settings.finish(inert=INERT)
    return Awq(bits=bits, group_size=group_size)


def _in_order(words: Tensor) -> Tensor:
    """The outputs (..., N) uint8 of numbers (..., N/8), in their order."""
    nibbles = unpack_nibbles(to_bytes(words)).unflatten(1, (-1, 8))
    return nibbles[:, :, PLACES].flatten(1)
