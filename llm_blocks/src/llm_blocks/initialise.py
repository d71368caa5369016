"""Models with random weights, to train or to measure."""

import zlib
from typing import Any

import torch
from torch import Tensor

from llm_blocks.architectures import find
from llm_blocks.meta import without_storage
from llm_blocks.norm import OffsetRMSNorm
from llm_blocks.parameters import assign
from llm_blocks.replacing import Replace, put_in, take_out
from llm_blocks.slices import part_layers
from llm_sepweight import PartSpec


def new_model(
    config: Any,
    part: str | PartSpec = "f",
    *,
    seed: int = 0,
    std: float = 0.02,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    replace: Replace | None = None,
) -> Any:
    """A trainable Model of this Config: norms 1, biases 0, the rest normal with deviation `std` (GPT-2's scheme).

    The same seed gives a layer the same weights whichever part it is built in. Drawn in fp32 on the CPU, so that
    neither device nor dtype changes them beyond rounding. `replace` is that of `llm_blocks.load`.
    """
    part, _ = part_layers(part, config.num_layers)
    with without_storage():
        model = find(config.model_type).Model(config, part)
    shapes = dict(model.named_parameters(remove_duplicate=False))
    norms = {name: module for name, module in model.named_modules() if "norm" in name.rpartition(".")[2]}

    def make(name: str) -> Tensor:
        shape = shapes[name].shape
        if name.rpartition(".")[0] in norms:
            centred = name.endswith(".bias") or isinstance(norms[name.rpartition(".")[0]], OffsetRMSNorm)
            values = torch.zeros(shape) if centred else torch.ones(shape)
        elif name.endswith(".bias"):
            values = torch.zeros(shape)
        else:
            values = _normal(name if not config.tie_embeddings else _tied(name), shape, std, seed)
        return values.to(device=device, dtype=torch.float32 if name.endswith(model.exact) else dtype)

    makers = {} if replace is None else replace(model)
    layers = take_out(model, makers)
    assign(model, lambda names: make(names[0]), trainable=True)
    put_in(model, layers, makers, make)
    return model


def _tied(name: str) -> str:
    return "begin.embed.weight" if name == "end.head.weight" else name


def _normal(name: str, shape: torch.Size, std: float, seed: int) -> Tensor:
    # the CPU's generator heeds 32 bits of a seed, so seed and name are mixed down to those
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.empty(shape).normal_(0, std, generator=generator)
