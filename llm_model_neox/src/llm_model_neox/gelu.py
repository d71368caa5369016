"""The GELUs by the names that config.json gives them (arXiv 1606.08415)."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

_tanh = partial(F.gelu, approximate="tanh")  # one formula, which was written in several ways

GELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _tanh,
    "gelu_fast": _tanh,
    "gelu_pytorch_tanh": _tanh,
}


def require_gelu(name: str) -> None:
    """ValueError unless the activation is one that this package knows."""
    if name not in GELUS:
        raise ValueError(f"the activation must be one of {', '.join(GELUS)}, got {name[:100]!r}")
