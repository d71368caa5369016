"""What a step makes smaller, as a sum over rows and the weight that the sum is divided by.

Shapes: T positions of the packed row, N trained ones, C width, B pairs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from llm_finetune.batches import Sample, pack
from llm_finetune.feeding import Item
from llm_finetune.loss import linear_cross_entropy, position_nll
from llm_finetune.preferences import dpo_loss, orpo_loss
from llm_finetune.settings import Settings

Reference = Callable[[Any], AbstractContextManager[Any]]
"""From the trained model to a context that gives the model as it was before training."""


class Objective(ABC):
    """A loss of rows. The loss of a step is the sum of its micro-batches' sums over the sum of their weights."""

    @abstractmethod
    def weight(self, items: Sequence[Item]) -> float:
        """What these rows count."""

    @abstractmethod
    def loss(self, model: Any, items: Sequence[Item]) -> Tensor:
        """The sum over these rows, an fp32 number with its gradient. `model` has `hidden` and `end`, as a `Decoder`."""


class NextToken(Objective):
    """The negative log-likelihood of each token times its weight."""

    def __init__(self, settings: Settings) -> None:
        self._chunk = settings.train.chunk_size

    def weight(self, items: Sequence[Item]) -> float:
        return sum(sum(sample.weights[1:]) for sample in _samples(items))

    def loss(self, model: Any, items: Sequence[Item]) -> Tensor:
        batch, device = pack(_samples(items)), _device(model)
        x = model.hidden(batch.ids.to(device), segments=batch.segments).squeeze(0)  # (T, C)
        targets, weights = batch.targets[0].to(device), batch.weights[0].to(device)
        return linear_cross_entropy(model.end, x, targets, weights, chunk=self._chunk)


class _Pairs(Objective):
    """A loss of pairs, which count one each."""

    def __init__(self, settings: Settings) -> None:
        self._chunk, self._beta, self._smoothing = settings.train.chunk_size, settings.beta, settings.label_smoothing

    def weight(self, items: Sequence[Item]) -> float:
        return len(_pairs(items))

    def _likelihoods(self, model: Any, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """The weighted sum of log-probabilities of each sample of each pair, and the sum of its weights: (2 B,)."""
        pairs = _pairs(items)
        batch, device = pack([sample for pair in pairs for sample in pair]), _device(model)
        weights = batch.weights[0].to(device)
        trained = weights > 0
        x = model.hidden(batch.ids.to(device), segments=batch.segments).squeeze(0)[trained]  # (N, C)
        nll = position_nll(model.end, x, batch.targets[0].to(device)[trained], chunk=self._chunk)
        sizes = torch.tensor(batch.segments, device=device)
        owner = torch.arange(2 * len(pairs), device=device).repeat_interleave(sizes)[trained]
        none = torch.zeros(2 * len(pairs), device=device)
        return none.index_add(0, owner, -nll * weights[trained]), none.index_add(0, owner, weights[trained])


class Dpo(_Pairs):
    """Direct preference optimization against the model as it was before training."""

    def __init__(self, settings: Settings, reference: Reference) -> None:
        super().__init__(settings)
        self._reference = reference

    def loss(self, model: Any, items: Sequence[Item]) -> Tensor:
        with torch.no_grad(), self._reference(model) as before:
            known, _ = self._likelihoods(before, items)
        found, _ = self._likelihoods(model, items)
        options = {"beta": self._beta, "smoothing": self._smoothing}
        return dpo_loss(found[::2], found[1::2], known[::2], known[1::2], **options).sum()


class Orpo(_Pairs):
    """Odds ratio preference optimization, which needs no reference."""

    def loss(self, model: Any, items: Sequence[Item]) -> Tensor:
        sums, weights = self._likelihoods(model, items)
        means = sums / weights.clamp(min=torch.finfo(weights.dtype).tiny)  # (2 B,) by token
        return orpo_loss(means[::2], means[1::2], beta=self._beta).sum()


def objective(settings: Settings, rows: Sequence[Item], reference: Callable[[], Reference]) -> Objective:
    """The objective that settings name, or that the rows ask for; ValueError where they don't go together.

    `reference` makes what DPO compares with, and is called for nothing else: it may be a second model in memory.
    """
    pairs = isinstance(rows[0], tuple)
    name = settings.objective or ("dpo" if pairs else "sft")
    if pairs != (name != "sft"):
        needs = "pairs of answers" if name != "sft" else "single samples"
        raise ValueError(f"the objective {name} learns from {needs}, which these rows are not; choose another")
    if name == "sft":
        return NextToken(settings)
    return Dpo(settings, reference()) if name == "dpo" else Orpo(settings)


def _samples(items: Sequence[Item]) -> list[Sample]:
    if any(isinstance(item, tuple) for item in items):
        raise ValueError("some rows are pairs and others single samples; a run learns from one kind")
    return [item for item in items if isinstance(item, Sample)]


def _pairs(items: Sequence[Item]) -> list[tuple[Sample, Sample]]:
    if any(isinstance(item, Sample) for item in items):
        raise ValueError("some rows are pairs and others single samples; a run learns from one kind")
    return [item for item in items if isinstance(item, tuple)]


def _device(model: Any) -> torch.device:
    return next(model.parameters()).device
