"""The tensors of a model out of sectioned weights, whole or in the pieces that files have of stacked experts."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from llm_blocks.checking import check
from llm_blocks.parameters import pieces, shared_names
from llm_sepweight import Weights


class Reader:
    """Reads the parameters of a model on the meta device by name, after all headers were compared with it.

    WeightsError for a tensor that is missing, unexpected, quantized or of another shape.
    """

    def __init__(self, model: Any, weights: Weights, *, dtype: torch.dtype, device: torch.device | str) -> None:
        self._weights, self._dtype, self._device = weights, dtype, device
        self._sources = check(model, weights)
        self._pieces = pieces(model)
        self._shapes = {name: p.shape for name, p in model.named_parameters(remove_duplicate=False)}
        self._first = {name: names[0] for names in shared_names(model) for name in names}
        self._exact = model.exact

    def read(self, name: str) -> Tensor:
        """The parameter in the model's dtype, mapped from the file where that is the file's too."""
        first, dtype = self._first[name], torch.float32 if name.endswith(self._exact) else self._dtype
        if first in self._sources:
            return self._weights.read(self._sources[first], dtype=dtype, device=self._device)
        return self._joined(first, torch.empty(self._shapes[name], dtype=dtype, device=self._device))

    def stored(self, name: str) -> Tensor:
        """A parameter that will be replaced: a matrix as the file has it, others, such as biases, as `read` has them.

        It is in memory of its own: pages of a mapped file would stay beside what is made of it.
        """
        if len(self._shapes[name]) < 2:
            return self.read(name)
        first = self._first[name]
        if first not in self._sources:
            dtypes = [self._weights.info(self._sources[piece]).dtype for piece in self._pieces[first]]
            shape, dtype = self._shapes[name], reduce(torch.promote_types, dtypes)
            return self._joined(first, torch.empty(shape, dtype=dtype, device=self._device))
        info = self._weights.info(self._sources[first])
        out = torch.empty(info.shape, dtype=info.dtype, device=self._device)
        return self._weights.read(self._sources[first], out=out)

    def _joined(self, name: str, whole: Tensor) -> Tensor:
        """The parameter `whole`, filled with its pieces."""
        for piece, view in self._pieces[name].items():
            part = whole.as_strided(view.size(), view.stride(), view.storage_offset())
            self._weights.read(self._sources[piece], out=part)
        return whole
