"""The form in which AutoGPTQ, GPTQModel and their kin store layers (GPTQ, arXiv 2210.17323).

Shapes: N rows (outputs), K columns (inputs), G groups of columns. qweight (K/8, N) int32 has eight inputs of an output
in a number, the first in its lowest bits (four of 8 bits); qzeros (G, N/8) has eight outputs of a group in the same
way; scales (G, N); g_idx (K,) is the group of each input. weight = scale * (value - zero). The first version of the
form, which is the usual one, stores each zero less one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from llm_quant.canonical import unpack_nibbles
from llm_quant.formats.base import SCALES, WHOLE, Entry, Format, Layer, by_group, int4_of, int8_of, to_bytes
from llm_quant.formats.settings import Settings

# How the weights were found, and how somebody's program runs them: what they are doesn't depend on it. The groups of
# act order (desc_act) are told by g_idx, the zeros of symmetric weights (sym) by qzeros, the head (lm_head) by names.
INERT = frozenset(
    {
        "_name_or_path",
        "act_group_aware",
        "autogptq_version",
        "backend",
        "batch_size",
        "block_name_to_quantize",
        "cache_block_outputs",
        "damp_auto_increment",
        "damp_percent",
        "dataset",
        "desc_act",
        "disable_exllama",
        "exllama_config",
        "lm_head",
        "max_input_length",
        "meta",
        "model_file_base_name",
        "model_name_or_path",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize",
        "mse",
        "pad_token_id",
        "quantizer",
        "static_groups",
        "sym",
        "tokenizer",
        "true_sequential",
        "use_cuda_fp16",
        "use_exllama",
        "use_triton",
    }
)


@dataclass(frozen=True, kw_only=True)
class Gptq(Format):
    """Layers of AutoGPTQ; `zeros_less_one` is the first version of the form."""

    method: ClassVar[str] = "gptq"
    packed: ClassVar[str] = "qweight"
    empty_biases: ClassVar[bool] = True

    zeros_less_one: bool = True

    @property
    def suffixes(self) -> tuple[str, ...]:
        return ("qweight", "qzeros", "scales", "g_idx")

    def entries(self, n: int, k: int) -> dict[str, Entry]:
        count, some = self.groups(n, k), 32 // self.bits
        if n % some or k % some:
            raise ValueError(f"{k} inputs and {n} outputs of {self.bits} bits are no whole numbers of 32 bits")
        return {
            "qweight": Entry(shape=(k // some, n), dtypes=(torch.int32,)),
            "qzeros": Entry(shape=(count, n // some), dtypes=(torch.int32,)),
            "scales": Entry(shape=(count, n), dtypes=SCALES),
            "g_idx": Entry(shape=(k,), dtypes=WHOLE, optional=True),
        }

    def decode(self, tensors: Mapping[str, Tensor], n: int, k: int) -> Layer:
        some = to_bytes(tensors["qweight"]).view(-1, n, 4).transpose(0, 1).reshape(n, -1)  # (N, K/2), or (N, K)
        scale, zero = tensors["scales"].t(), to_bytes(tensors["qzeros"])
        zero = (unpack_nibbles(zero) if self.bits == 4 else zero).t()  # (N, G)
        if self.zeros_less_one:
            zero = zero + 1  # 16 may come out, and 8 bits wrap
        if self.bits == 8:
            return Layer(weight=int8_of(some, scale, zero))
        weight = int4_of(some, scale, zero)
        return Layer(weight=weight) if "g_idx" not in tensors else by_group(weight, tensors["g_idx"])


def parse(settings: Settings) -> Gptq:
    """What a quantization_config of the method gptq says. ValueError names the key that can't be honoured."""
    bits, group_size = settings.bits("bits"), settings.group_size("group_size")
    if bits == 8 and group_size is not None:
        raise settings.refused("group_size", "8 bits are read with a scale for each row alone")
    key = "checkpoint_format" if settings.get("checkpoint_format") is not None else "format"
    settings.require(key, ("gptq", "gptq_v2"), "the forms gptq and gptq_v2 are read")
    first = settings.get(key) != "gptq_v2"
    settings.require("format", ("gptq", "gptq_v2"), "the forms gptq and gptq_v2 are read")
    settings.require("is_marlin_format", (False,), "weights in the order of one processor's kernels are not read")
    settings.require("pack_dtype", ("int32",), "weights are read from int32")
    settings.require_empty("dynamic", "layers that differ in bits or groups are not read")
    settings.finish(inert=INERT)
    return Gptq(bits=bits, group_size=group_size, zeros_less_one=first)
