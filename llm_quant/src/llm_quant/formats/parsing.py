"""What a quantization_config says: which format, and how its layers are stored."""

from collections.abc import Callable, Mapping

from llm_quant.formats import awq, bitsandbytes, compressed_tensors, gptq
from llm_quant.formats.base import Format
from llm_quant.formats.settings import Settings

METHODS: Mapping[str, Callable[[Settings], Format]] = {
    "compressed-tensors": compressed_tensors.parse,
    "gptq": gptq.parse,
    "awq": awq.parse,
    "bitsandbytes": bitsandbytes.parse,
}
"""The values of quant_method that are known."""


def parse(config: object) -> Format:
    """The format that the quantization_config of a config.json describes.

    ValueError, which names the key, for a method that isn't known, for a setting that can't be honoured (rounded
    activations or caches, formats of floating numbers, sparsity), and for any key of which nothing is known.
    """
    settings = Settings(config)
    method = settings.get("quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise settings.refused("quant_method", f"its weights are quantized otherwise than by {', '.join(METHODS)}")
    return METHODS[method](settings)
