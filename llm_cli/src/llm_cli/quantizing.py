"""Weights of whole numbers for an `LLM`: which schemes there are, and putting a model into one."""

from typing import Any, cast

import torch
from torch import nn

import llm_quant
from llm_blocks.replacing import Replace
from llm_cli.errors import suggestion
from llm_cli.matrices import matrices, numbers
from llm_cli.output import write_notice

COVERED = 0.9  # of the numbers that multiply, which have to be in layers that can be quantized


def check_scheme(name: str, *, folder: bool = False) -> None:
    """Raise ValueError for a scheme that there isn't, that needs a missing library, or that no `folder` has."""
    if name not in llm_quant.SCHEMES:
        hint = suggestion(name, llm_quant.SCHEMES) or f"; there are {', '.join(llm_quant.SCHEMES)}"
        raise ValueError(f"there is no quantization {name!r}{hint}")
    if name in llm_quant.bnb.SCHEMES:
        if folder:
            raise ValueError(f"no folder is written in {name}: --quantize {name} rounds to it; use int8 or int4")
        llm_quant.bnb.require(name)


def quantize(model: Any, scheme: str) -> None:
    """Quantize the linear layers of a model in place; ValueError as from `require_linear`."""
    require_linear(model)
    llm_quant.quantize(model, cast(llm_quant.Scheme, scheme), group_size=group_size(model))


def while_read(scheme: str | None) -> Replace | None:
    """The same for a model that is being read, layer by layer (`replace` of `llm_blocks.load`); None for no scheme."""

    def plan(model: Any) -> dict[str, llm_quant.Maker]:
        require_linear(model)
        return llm_quant.plan(model, cast(llm_quant.Scheme, scheme), group_size=group_size(model))

    return None if scheme is None else plan


def require_linear(model: Any) -> None:
    """ValueError unless most of a model's numbers are in layers that can be quantized."""
    inside = numbers(matrices(model))
    embeddings = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Embedding))
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    tied = embeddings if model.config.tie_embeddings else 0
    if inside < COVERED * (total - embeddings + tied):
        raise ValueError(
            f"{model.config.model_type} keeps most of its numbers outside of linear layers and experts, which this "
            "version doesn't quantize; run it as it is"
        )


def is_quantized(model: Any) -> bool:
    """Whether any layer of the model holds quantized numbers."""
    kinds = (llm_quant.QuantizedLinear, llm_quant.BnbLinear)
    return any(isinstance(layer, kinds) for layer in model.modules())


def finish(model: Any, dtype: torch.dtype) -> None:
    """Let a model that is in place use what is fastest there."""
    if dtype == torch.bfloat16:
        llm_quant.accelerate(model)


def lost(llm: Any) -> str | None:
    """A sentence on what there is without kernels, where a CPU runs a model that would use them; else None."""
    theirs = (layer for layer in llm.model.modules() if isinstance(layer, llm_quant.BnbLinear))
    slow = next((layer.kind for layer in theirs if not layer.has_kernels), None)
    if slow is not None and llm.device.type == "cpu":
        return f"{slow} has no kernels for this CPU, where torch's operators compute every token; int8 and int4 have"
    uses = is_quantized(llm.model) or next(llm.model.parameters()).dtype == torch.bfloat16
    if llm.device.type != "cpu" or llm_quant.level() is not None or not uses:
        return None
    return f"without kernels ({llm_quant.reason()}) torch's operators compute every token, which takes longer"


def tell_lost(llm: Any) -> None:
    """Tell it on stderr."""
    sentence = lost(llm)
    if sentence is not None:
        write_notice(sentence)


def group_size(model: Any) -> int:
    """The usual groups, or the largest smaller ones that divide the inputs of every layer (tiny models)."""
    widths = {matrix.in_features for matrix in matrices(model).values()}
    sizes = (llm_quant.GROUP_SIZE, 32, 16, 8)
    return next((size for size in sizes if all(width % size == 0 for width in widths)), sizes[-1])
