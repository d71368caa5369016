"""What is measured on a text: a model's perplexity, and its divergence from another model."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How well a model foretells a text."""

    tokens: int
    """How many ids were scored."""
    nll: float
    """Negative log-likelihood: the mean of -ln p(id | the ids before it in its window), in nats."""
    standard_error: float
    """Of `nll`, in nats, with the ids taken for independent of each other; 0 for one id."""
    num_bytes: int | None = None
    """How many bytes of text the scored ids are, if that was given."""

    @property
    def perplexity(self) -> float:
        """exp(nll): of how many equally likely ids the next one seems to be chosen (Jelinek et al. 1977)."""
        return math.exp(self.nll) if self.nll < 700 else math.inf

    @property
    def perplexity_error(self) -> float:
        """The standard error of `perplexity`, to first order: perplexity * standard_error."""
        return self.perplexity * self.standard_error if math.isfinite(self.perplexity) else math.nan

    @property
    def bits_per_byte(self) -> float | None:
        """tokens * nll / (ln 2 * num_bytes), which compares models of different tokenizers; None without num_bytes.

        Gao et al. 2020, arXiv 2101.00027, section 3.1.
        """
        return self.tokens * self.nll / (math.log(2) * self.num_bytes) if self.num_bytes else None


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How far the distributions Q of a model are from the distributions P of a base, position by position of a text.

    D(P || Q) = sum of p ln(p / q) over the vocabulary, in nats (Kullback and Leibler 1951); 0 where they are equal.
    """

    mean: float
    standard_error: float
    """Of `mean`, with the positions taken for independent of each other; 0 for one position."""
    median: float
    percentile_99: float
    """99 of 100 positions have no more (nearest rank)."""
    max: float
    same_top: float
    """The share of positions at which both hold the same id for the likeliest, from 0 to 1."""
    model: Perplexity
    base: Perplexity
    nll_change: float
    """model.nll - base.nll, in nats: what the text says of the model's loss."""
    nll_change_error: float
    """The standard error of `nll_change`. Both score the same ids, so it is that of the differences, id by id."""
