"""Layers of whole numbers as checkpoints store them: what `quantization_config` says, and the tensors of each layer.

A `Format` is what config.json says of them; it names a layer's tensors and makes canonical weights of them.
"""

from llm_quant.formats.awq import Awq
from llm_quant.formats.base import Entry, Format, Layer
from llm_quant.formats.bitsandbytes import Bnb4, Bnb8
from llm_quant.formats.compressed_tensors import CompressedTensors
from llm_quant.formats.gptq import Gptq
from llm_quant.formats.parsing import METHODS, parse

__all__ = ["METHODS", "Awq", "Bnb4", "Bnb8", "CompressedTensors", "Entry", "Format", "Gptq", "Layer", "parse"]
