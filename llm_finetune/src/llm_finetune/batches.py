"""What the training loop is fed with: samples of tokens with a weight each, and batches of them in one row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Token ids, and how much each counts as a target: weights[t] is that of predicting ids[t]; weights[0] is unused.

    ValueError for unequal lengths, fewer than two tokens, and a weight that is negative or not a number.
    """

    ids: Sequence[int]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.weights):
            raise ValueError(f"{len(self.ids)} ids need as many weights, not {len(self.weights)}")
        if len(self.ids) < 2:
            raise ValueError(
                f"a sample needs at least two tokens, one to predict the other from; this has {len(self.ids)}"
            )
        if not all(0 <= weight < float("inf") for weight in self.weights):
            raise ValueError("weights of tokens are numbers of at least 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Samples one after the other in a single row, without padding.

    ids (1, T) int64 are the inputs, targets (1, T) int64 what follows each of them, weights (1, T) fp32 how much each
    target counts; `segments` are the lengths of the samples, which sum to T. A sample of n tokens takes n - 1 places.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    segments: tuple[int, ...]

    @property
    def trained(self) -> float:
        """The sum of the weights."""
        return float(self.weights.double().sum())


def pack(samples: Sequence[Sample]) -> Batch:
    """The samples as one batch; ValueError for none."""
    if not samples:
        raise ValueError("a batch needs at least one sample")
    ids = [token for sample in samples for token in sample.ids[:-1]]
    targets = [token for sample in samples for token in sample.ids[1:]]
    weights = [weight for sample in samples for weight in sample.weights[1:]]
    return Batch(
        ids=torch.tensor([ids], dtype=torch.int64),
        targets=torch.tensor([targets], dtype=torch.int64),
        weights=torch.tensor([weights], dtype=torch.float32),
        segments=tuple(len(sample.ids) - 1 for sample in samples),
    )
