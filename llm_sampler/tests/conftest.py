"""Small models for the tests: a table of next-token logits, and one attention layer with a real cache."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

VOCAB = 11


class Attention:
    """One causal attention layer over embeddings with positions, in float64 so that two routes agree closely."""

    def __init__(self) -> None:
        make = torch.Generator().manual_seed(7)
        self.embed, self.place, self.query, self.key, self.value, self.head = (
            torch.randn(*shape, generator=make, dtype=torch.float64)
            for shape in [(VOCAB, 8), (64, 8), (8, 8), (8, 8), (8, 8), (8, VOCAB)]
        )

    def _attend(self, x: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        weights = (x @ self.query) @ (past @ self.key).transpose(1, 2)
        return weights.masked_fill(~mask, -torch.inf).softmax(-1) @ (past @ self.value) @ self.head

    def __call__(self, ids: Tensor) -> Tensor:
        """Stateless: ids (B, T) -> logits (B, T, V)."""
        x = self.embed[ids] + self.place[: ids.shape[1]]
        return self._attend(x, x, torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril())

    def cached(self, lengths: list[int]) -> Callable[[Tensor], Tensor]:
        """A forward_func that keeps what it has seen of rows with these prompt lengths, and gets new ids only."""
        past = torch.zeros(len(lengths), 64, 8, dtype=torch.float64)
        ends = torch.zeros(len(lengths), dtype=torch.int64)

        def forward(ids: Tensor) -> Tensor:
            nonlocal ends
            places = ends.unsqueeze(1) + torch.arange(ids.shape[1])  # (B, T)
            x = self.embed[ids] + self.place[places]
            past.scatter_(1, places.unsqueeze(2).expand_as(x), x)
            ends = torch.tensor(lengths) if not ends.any() else ends + 1
            return self._attend(x, past, torch.arange(64) <= places.unsqueeze(2))

        return forward


@pytest.fixture(scope="session")
def attention() -> Attention:
    return Attention()


@pytest.fixture
def table() -> Tensor:
    """Next-token logits (V, V): row i is what follows id i. Its argmax runs through the ids upwards."""
    logits = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[torch.arange(VOCAB), (torch.arange(VOCAB) + 1) % VOCAB] = 4.0
    return logits


@pytest.fixture
def bigram(table: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda ids: table[ids]
