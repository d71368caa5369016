"""The GELUs by the names that config.json gives them (arXiv 1606.08415)."""

from collections.abc import Callable

from torch import Tensor

from llm_blocks import gelu, gelu_tanh

GELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,  # one formula, which was written in several ways
}


def require_gelu(name: str) -> None:
    """ValueError unless the activation is one that this package knows."""
    if name not in GELUS:
        raise ValueError(f"the activation must be one of {', '.join(GELUS)}, got {name[:100]!r}")
