"""How many ids to propose a round, and what came of it: acceptance, and the speed beside plain steps.

A round is one call of the model: the last id of each row and its proposals, of which a beginning is kept.
"""

import math
from dataclasses import dataclass, field

from .options import check_integer

LEAST_CHANCE = 0.25
MEMORY = 0.9
PRIOR = 5.0
REST = 16


class Pace:
    """How many ids to propose: as many as have a chance of at least a quarter to be kept, by what was kept before.

    The rate a of proposals that are kept, where those before them were, is estimated from the rounds so far, each of
    which counts 0.9 times as much as the one after it; the n-th proposal of a round is then kept with probability a^n
    (Leviathan et al. 2023, arXiv 2211.17192, §3.1). It begins as if a gave `tokens` proposals and never goes beyond
    twice that; where it gives none, every 16th round tries one. The first `measured` rounds are plain steps, which
    show the speed without. Only counts go in, no times, so the same text always has the same rounds.
    """

    def __init__(self, tokens: int = 4, *, measured: int = 4) -> None:
        check_integer("tokens", tokens, 1)
        check_integer("measured", measured, 0)
        self._most = 2 * tokens
        self._plain_left, self._resting = measured, 0
        self._tested, self._kept = PRIOR, PRIOR * LEAST_CHANCE ** (1 / tokens)

    def next(self) -> int:
        """How many ids to propose now; 0 for a plain step."""
        if self._plain_left:
            self._plain_left -= 1
            return 0
        rate = self._kept / self._tested
        wanted = int(math.log(LEAST_CHANCE) / math.log(rate) + 1e-9) if rate < 1 else self._most
        if wanted:
            self._resting = 0
            return min(wanted, self._most)
        self._resting += 1
        return int(self._resting % REST == 0)

    def note(self, tested: int, kept: int) -> None:
        """Take in a round: how many proposals the model was compared with, and how many of them were its own."""
        if tested:
            self._tested, self._kept = MEMORY * self._tested + tested, MEMORY * self._kept + kept


@dataclass(kw_only=True)
class SpeculativeReport:
    """What came of speculating so far, by row; ids and rounds count from behind the prompt's own first id."""

    proposed: list[int] = field(default_factory=list)
    """Proposals that the model was called with."""
    accepted: list[int] = field(default_factory=list)
    """Those among them that are part of the answer."""
    new_ids: list[int] = field(default_factory=list)
    passes: list[int] = field(default_factory=list)
    """Rounds in which the row got ids."""
    seconds: float = 0.0
    """Of all rounds, proposing included."""
    plain_seconds: list[float] = field(default_factory=list)
    """Of each round without any proposal."""

    def add(self, *, proposed: list[int], accepted: list[int], new_ids: list[int], seconds: float) -> None:
        """Take in a round: three numbers of each row, and its time."""
        passes = [int(count > 0) for count in new_ids]
        given = {"proposed": proposed, "accepted": accepted, "new_ids": new_ids, "passes": passes}
        for name, values in given.items():
            totals = getattr(self, name) or [0] * len(values)
            setattr(self, name, [a + b for a, b in zip(totals, values, strict=True)])
        self.seconds += seconds
        if not any(proposed):
            self.plain_seconds.append(seconds)

    @property
    def acceptance_rate(self) -> float | None:
        """The share of proposals that became part of the answer; None without any."""
        return sum(self.accepted) / sum(self.proposed) if any(self.proposed) else None

    @property
    def ids_per_pass(self) -> float | None:
        """How many ids a row got from one call of the model; 1 for plain steps."""
        return sum(self.new_ids) / sum(self.passes) if any(self.passes) else None

    @property
    def speed_up(self) -> float | None:
        """The speed of all rounds over that of plain steps; None where nothing was proposed or few steps were plain.

        Plain, the longest row would have taken one step for each of its ids, each as long as the mean of those that
        were plain: a mean, because the time of all rounds is a sum, in which slow moments of the machine count too. The
        first plain step is left out, which often has work that happens once. Most plain steps come early, in a shorter
        text, so this errs on the side of a loss.
        """
        if len(self.plain_seconds) < 2 or not any(self.proposed):
            return None
        first, *plain = self.plain_seconds
        seconds = self.seconds - first
        return sum(plain) / len(plain) * (max(self.new_ids) - 1) / seconds if seconds > 0 else None
