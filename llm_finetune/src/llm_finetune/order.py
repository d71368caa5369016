"""In what order samples are trained on: a pure function of seed, epoch and place, for any number of ranks.

A row is what counts towards the batch size: a sample, or with packing a bin of samples. The rows of all epochs follow
each other; step s takes rows s·G to s·G + G - 1, whoever trains them. Nothing is drawn while training: resuming needs
no more than the number of the step.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

PACK_WINDOW = 1024  # samples among which bins are filled: bounds the work and keeps the order random
GROUP_STEPS = 64  # steps' worth of samples that are sorted by length together

Rows = list[tuple[int, ...]]  # samples of each row


def permutation(seed: int, epoch: int, size: int, *, purpose: str = "order") -> Tensor:
    """A permutation (size,) int64 that depends on nothing but the arguments."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {purpose} {epoch}".encode()))
    return torch.randperm(size, generator=generator)


def plan_epoch(
    lengths: Sequence[int],
    seed: int,
    epoch: int,
    *,
    rows_per_step: int,
    packing: bool = False,
    group_by_length: bool = False,
    max_seq_length: int | None = None,
    start: int = 0,
) -> Rows:
    """The rows of an epoch, each sample in one of them.

    packing: bins of at most max_seq_length places. group_by_length: rows of like length come in the same step; `start`
    is the number of rows in the epochs before, which decides where steps begin.
    """
    order = permutation(seed, epoch, len(lengths)).tolist()
    if packing:
        if max_seq_length is None:
            raise ValueError("packing needs max_seq_length, the places of a bin")
        bins = _bins(order, lengths, max_seq_length)
        order_of_bins = permutation(seed, epoch, len(bins), purpose="bins").tolist()
        rows = [bins[i] for i in order_of_bins]
    else:
        rows = [(sample,) for sample in order]
    return _grouped(rows, lengths, seed, epoch, rows_per_step, start) if group_by_length else rows


def _bins(order: list[int], lengths: Sequence[int], places: int) -> Rows:
    """Bins filled first-fit by decreasing length (Johnson 1973), window by window; a sample over the limit is alone."""
    found: Rows = []
    for begin in range(0, len(order), PACK_WINDOW):
        bins: list[list[int]] = []
        left: list[int] = []
        for sample in sorted(order[begin : begin + PACK_WINDOW], key=lambda sample: -lengths[sample]):
            need = lengths[sample]
            place = next((i for i, free in enumerate(left) if free >= need), None)
            if place is None:
                bins.append([sample])
                left.append(places - need)
            else:
                bins[place].append(sample)
                left[place] -= need
        found += [tuple(each) for each in bins]
    return found


def _grouped(rows: Rows, lengths: Sequence[int], seed: int, epoch: int, rows_per_step: int, start: int) -> Rows:
    """Rows sorted by length within windows and cut into steps, which are shuffled; each step stays a step."""
    window = GROUP_STEPS * rows_per_step
    size = [sum(lengths[sample] for sample in row) for row in rows]
    order = list(range(len(rows)))
    lead = min(-start % rows_per_step, len(rows))  # these fill up the last step of the epoch before
    spans = [(begin, min(begin + window, len(rows))) for begin in range(lead, len(rows), window)]
    ordered = [place for begin, end in spans for place in sorted(order[begin:end], key=lambda place: -size[place])]
    steps = [ordered[begin : begin + rows_per_step] for begin in range(0, len(ordered), rows_per_step)]
    whole = len(ordered) // rows_per_step
    shuffled = [steps[i] for i in permutation(seed, epoch, whole, purpose="steps").tolist()] + steps[whole:]
    return [rows[place] for place in (*order[:lead], *(place for step in shuffled for place in step))]


class Order:
    """Rows by index, steps by number.

    lengths: places of each sample (tokens less one; of a pair, both together). rows_per_step is the global batch size.
    epochs: None goes on without end; the last step of the last epoch may be short. ValueError for no samples.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        seed: int,
        rows_per_step: int,
        epochs: int | None = None,
        packing: bool = False,
        group_by_length: bool = False,
        max_seq_length: int | None = None,
    ) -> None:
        if not lengths:
            raise ValueError("there are no samples to put in order")
        if rows_per_step < 1 or (epochs is not None and epochs < 1):
            raise ValueError(f"a step has at least one row and a run one epoch, not {rows_per_step} and {epochs}")
        self.lengths, self.seed, self.rows_per_step, self.epochs = list(lengths), seed, rows_per_step, epochs
        self._options = {"packing": packing, "group_by_length": group_by_length, "max_seq_length": max_seq_length}
        self._group = group_by_length
        self._starts = [0]  # of the epochs planned so far: with packing, their numbers of rows differ
        self._plan = lru_cache(maxsize=2)(self._planned)

    def _planned(self, epoch: int) -> Rows:
        start = self.start(epoch)
        return plan_epoch(
            self.lengths, self.seed, epoch, rows_per_step=self.rows_per_step, start=start, **self._options
        )

    def start(self, epoch: int) -> int:
        """The index of the epoch's first row."""
        while len(self._starts) <= epoch:
            last = len(self._starts) - 1
            rows = len(self._plan(last)) if self._options["packing"] else len(self.lengths)
            self._starts.append(self._starts[last] + rows)
        return self._starts[epoch]

    def epoch_of(self, index: int) -> int:
        """The epoch that the row of this index belongs to, from 0."""
        epoch = index // len(self.lengths)  # packing makes rows fewer, so never a later one
        while self.start(epoch + 1) <= index:
            epoch += 1
        return epoch

    def row(self, index: int) -> tuple[int, ...]:
        """The samples of a row. IndexError past the last epoch."""
        epoch = self.epoch_of(index)
        if index < 0 or (self.epochs is not None and epoch >= self.epochs):
            raise IndexError(f"row {index} is not in {self.epochs} epochs")
        return self._plan(epoch)[index - self.start(epoch)]

    @property
    def steps(self) -> int | None:
        """Steps of all epochs, the last perhaps short; None where there is no end."""
        return None if self.epochs is None else -(-self.start(self.epochs) // self.rows_per_step)

    def step(self, step: int) -> Rows:
        """The rows of a step, the same whoever trains them. IndexError past the last."""
        begin = step * self.rows_per_step
        end = begin + self.rows_per_step
        if self.epochs is not None:
            end = min(end, self.start(self.epochs))
        if step < 0 or begin >= end:
            raise IndexError(f"step {step} is not among {self.steps}")
        return [self.row(index) for index in range(begin, end)]

    def micros(self, step: int, *, world: int = 1, rows: int = 1) -> int:
        """Micro-batches of at most that many rows that each rank needs for the step; the same number on all."""
        share = -(-len(self.step(step)) // world)
        return -(-share // rows)

    def micro(self, step: int, micro: int, *, rank: int = 0, world: int = 1, rows: int = 1) -> Rows:
        """The rows of a rank's micro-batch; none where a short last step leaves the rank without.

        Ranks get equal numbers of rows, in turn; by length they are dealt to and fro, so that sums are near equal.
        ValueError where ranks couldn't get equal numbers.
        """
        check_batch(self.rows_per_step, world)
        found = self.step(step)
        if self._group:
            found.sort(key=lambda row: -sum(self.lengths[sample] for sample in row))
        own = [row for place, row in enumerate(found) if self._rank(place, world) == rank]
        return own[micro * rows : (micro + 1) * rows]

    def _rank(self, place: int, world: int) -> int:
        turn, rank = divmod(place, world)
        return world - 1 - rank if self._group and turn % 2 else rank


def check_batch(rows_per_step: int, world: int) -> None:
    """ValueError where the global batch size isn't a multiple of the number of ranks."""
    if rows_per_step % world:
        down, up = rows_per_step // world * world, -(-rows_per_step // world) * world
        near = f"{down} or {up}" if down else str(up)
        raise ValueError(f"a global batch of {rows_per_step} can't be shared by {world} devices; take {near}")
