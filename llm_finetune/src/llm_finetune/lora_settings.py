"""The settings of LoRA, readable without torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685): y = W x + scale B A x, A of `r` rows, scale = alpha / r.

    With `rslora` the scale is alpha / sqrt(r) (arXiv 2312.03732), with `dora` the rows of W + scale B A have magnitudes
    of their own (arXiv 2402.09353). `dropout` is the share of the adapter's inputs that are zeroed in training.

    What has adapters: queries, keys, values, attention's output (`projection`), the layers of the `mlp`, the `head`; or
    instead whatever matches one of the patterns `targets` (see `lora_targets`). `layers` are half-open ranges such as
    "0-8 24-32", None for all. ValueError for numbers that make no sense.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.05
    rslora: bool = False
    dora: bool = False
    query: bool = True
    key: bool = False
    value: bool = True
    projection: bool = False
    mlp: bool = False
    head: bool = False
    targets: tuple[str, ...] = ()
    layers: str | None = None

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"the rank of LoRA is at least 1, not {self.r}; 8 is usual")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha is a number above 0, not {self.alpha}; twice the rank is usual")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share from 0 to below 1, not {self.dropout}")

    @property
    def scale(self) -> float:
        """What multiplies B A."""
        return scale_of(self.alpha, self.r, rslora=self.rslora)


def scale_of(alpha: float, r: int, *, rslora: bool) -> float:
    """alpha / r, or alpha / sqrt(r)."""
    return alpha / (r**0.5 if rslora else r)
